"""EWC (arXiv 1612.00796) and online EWC (arXiv 1805.06370) on Split-Fashion-MNIST.

python -m experiments.continual --config=configs/continual/ewc.py --workdir=runs/ewc --seeds=5
python -m experiments.continual --config=configs/continual/ewc.py:online --workdir=runs/ewc_online --seeds=5

Measured: 28 s each for 5 seeds on 2 cores, final accuracy 20.0 ± 0.2, and 19.9 ± 0.0 online (mean and 95 percent
interval): without task ids no penalty of this kind can tell classes of different experiences apart. Where the task is
known it works: `python -m experiments.evidence --name=ewc`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """With one quadratic form over all experiences, or with `:online` anchored at the latest parameters."""
    args = set((arg or "").split(",")) - {""}
    online = "online" in args
    rest = ",".join(sorted(args - {"online"}))
    config = split_fashion_mnist("ewc_online" if online else "ewc", ("ewc",), rest)
    config.ewc = {"lam": 1e3, "online": online, "decay": 1.0, "fisher": "exact"}
    return config

"""iCaRL (arXiv 1611.07725) on Split-Fashion-MNIST, 50 exemplars of each class.

python -m experiments.continual --config=configs/continual/icarl.py --workdir=runs/icarl --seeds=5

Measured: 340 s for 5 seeds on 2 busy cores, final accuracy 74.4 ± 1.5, forgetting 15.2 ± 1.5 (mean and 95 percent
interval); at 20 exemplars a class, and against `er`: `python -m experiments.evidence --name=icarl`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """As many rows as `er` has, chosen by herding; only the classes seen so far compete, as in the paper."""
    config = split_fashion_mnist("icarl", ("icarl",), arg)
    config.scenario.heads = "seen"
    config.icarl = {"size": 50, "temperature": 1.0}
    return config

"""Refresh learning (arXiv 2403.13249) around experience replay on Split-Fashion-MNIST, 200 rows of memory.

python -m experiments.continual --config=configs/continual/refresh.py --workdir=runs/refresh --seeds=5

Measured: 621 s for 5 seeds on 2 cores that others used too, final accuracy 72.2 ± 2.5, forgetting 31.9 ± 3.4 (mean and
95 percent interval); without it: `python -m experiments.evidence --name=refresh`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """A reservoir of 200, and the values of the authors' code."""
    config = split_fashion_mnist("refresh", ("refresh", "er"), arg)
    config.refresh = {"delta": 1e-5, "noise": 1e-3, "fisher_scale": 1e-3, "decay": 1e-5}
    config.er = {"size": 200}
    return config

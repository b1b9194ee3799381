"""ER-ACE (arXiv 2104.05025) on Split-Fashion-MNIST, 500 rows of memory.

python -m experiments.continual --config=configs/continual/er_ace.py --workdir=runs/er_ace --seeds=5

Measured: 145 s for 5 seeds on 2 busy cores, final accuracy 80.2 ± 1.0, forgetting 10.6 ± 3.4 (mean and 95 percent
interval).
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """A reservoir of 500, as many rows replayed as arrive."""
    config = split_fashion_mnist("er_ace", ("er_ace",), arg)
    config.er_ace = {"size": 500, "policy": "reservoir"}
    return config

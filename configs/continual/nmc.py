"""Nearest class mean (arXiv 2210.04428) on Split-Fashion-MNIST, on features of the untrained network.

python -m experiments.continual --config=configs/continual/nmc.py --workdir=runs/nmc --seeds=5
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """One pass: means do not change when rows are seen again."""
    config = split_fashion_mnist("nmc", ("nmc",), arg)
    config.nmc = {"metric": "l2"}
    config.epochs = 1
    return config

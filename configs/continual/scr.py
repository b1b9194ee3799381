"""SCR (arXiv 2103.13885) on Split-Fashion-MNIST, 500 rows of memory.

python -m experiments.continual --config=configs/continual/scr.py --workdir=runs/scr --seeds=5

Measured: 102 s for 5 seeds on 2 busy cores, final accuracy 79.2 ± 1.4, forgetting 22.0 ± 2.1 (mean and 95 percent
interval).
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """A reservoir of 500, as many rows replayed as arrive."""
    config = split_fashion_mnist("scr", ("scr",), arg)
    config.scr = {"size": 500, "temperature": 0.1}
    return config

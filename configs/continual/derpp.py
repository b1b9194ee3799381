"""DER++ (arXiv 2004.07211) on Split-Fashion-MNIST, 500 rows of memory.

python -m experiments.continual --config=configs/continual/derpp.py --workdir=runs/derpp --seeds=5

Measured: 36 s for 5 seeds on 2 cores, final accuracy 81.8 ± 1.1, forgetting 17.5 ± 1.4 (mean and 95 percent interval).
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """A reservoir of 500 with logits."""
    config = split_fashion_mnist("derpp", ("derpp",), arg)
    config.derpp = {"size": 500, "alpha": 0.5, "beta": 0.5}
    return config

"""DER (arXiv 2004.07211) on Split-Fashion-MNIST, 500 rows of memory.

python -m experiments.continual --config=configs/continual/der.py --workdir=runs/der --seeds=5

Measured: 123 s for 5 seeds on 2 busy cores, final accuracy 82.0 ± 1.1, forgetting 18.0 ± 1.1 (mean and 95 percent
interval).
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """A reservoir of 500 with logits."""
    config = split_fashion_mnist("der", ("der",), arg)
    config.der = {"size": 500, "alpha": 0.5}
    return config

"""G-ACIL (arXiv 2403.15706) on Split-Fashion-MNIST, on features of the untrained network.

python -m experiments.continual --config=configs/continual/gacil.py --workdir=runs/gacil --seeds=5

Measured: 10 s for 5 seeds on 2 cores, final accuracy 85.0 ± 0.8, forgetting 7.2 ± 1.1 (mean and 95 percent interval).
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """One pass: there is nothing to repeat."""
    config = split_fashion_mnist("gacil", ("gacil",), arg)
    config.gacil = {"width": 2048, "gamma": 0.1}
    config.epochs = 1
    return config

"""GSS (arXiv 1903.08671) on Split-Fashion-MNIST: a memory of rows whose gradients are unlike.

python -m experiments.continual --config=configs/continual/gss.py --workdir=runs/gss --seeds=5

Measured: 134 s for 5 seeds on one core in use, final accuracy 57.9 ± 9.0, forgetting 45.8 ± 8.0 (mean and 95 percent
interval).
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """As many rows as in `er`; one pass, for which the method is meant."""
    config = split_fashion_mnist("gss", ("gss",), arg)
    config.epochs = 1
    config.model.hidden = (100, 100)
    config.gss = {"size": 500}
    return config

"""MIR (arXiv 1908.04742) on Split-Fashion-MNIST in one pass, 10 rows and 10 more of a memory of 500.

python -m experiments.continual --config=configs/continual/mir.py --workdir=runs/mir --seeds=5

Measured: 41 s for 5 seeds on 2 busy cores, final accuracy 75.1 ± 4.0, forgetting 19.8 ± 5.7 (mean and 95 percent
interval).
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """The paper's sizes; its step of 0.05 on the sum of two means is one of 0.1 on the mean over both."""
    config = split_fashion_mnist("mir", ("mir",), arg)
    config.mir = {"size": 500, "lr": 0.05, "candidates": 50}
    config.model.hidden = (400,)
    config.optimizer = {"name": "sgd", "learning_rate": 0.1}
    config.batch_size = 10
    config.epochs = 1
    return config

"""PackNet (arXiv 1711.05769) on permuted Fashion-MNIST, tasks known: three quarters of what is free are freed again.

python -m experiments.continual --config=configs/continual/packnet.py --workdir=runs/packnet --seeds=5

Measured: 57 s for 5 seeds on 2 busy cores, final accuracy 80.6 ± 0.4, forgetting 0.0 ± 0.0 (mean and 95 percent
interval).
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """An output layer for each task; the last third of an experience's steps after it is pruned."""
    config = split_fashion_mnist("packnet", ("packnet",), arg)
    config.scenario = {"name": "permuted", "num_experiences": 5, "task_known": True}
    config.model = {"name": "MLP", "hidden": (256,)}
    config.optimizer = {"name": "adam", "learning_rate": 1e-3}
    config.epochs = 1
    config.packnet = {"num_tasks": 5, "share": 0.75, "retrain_share": 1 / 3}
    return config

"""HyperInterval (arXiv 2405.15444) on task-incremental Split-Fashion-MNIST.

python -m experiments.continual --config=configs/continual/hyperinterval.py --workdir=runs/hyperinterval --seeds=5

Measured: 438 s for 5 seeds on 2 busy cores, final accuracy 98.8 ± 0.1, forgetting 0.1 ± 0.1 (mean and 95 percent
interval). In one epoch and with 16 units one seed of five learns nothing of its second task.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """A network of 32 hidden units, of which a box is trained for each task."""
    config = split_fashion_mnist("hyperinterval", ("hyperinterval",), arg)
    config.scenario = {"name": "task_incremental", "num_experiences": 5}
    config.model = {"name": "MLP", "hidden": (32,)}
    config.optimizer = {"name": "adam", "learning_rate": 3e-3}
    config.epochs = 1 if arg == "runlocal" else 3
    config.hyperinterval = {"num_tasks": 5, "beta": 0.01, "eps": 0.1, "kappa": 0.5, "dim": 8, "hidden": (32, 32)}
    return config

"""CLR (arXiv 2307.11386) on task-incremental Split-Fashion-MNIST, from a network that is not trained before.

python -m experiments.continual --config=configs/continual/clr.py --workdir=runs/clr --seeds=5

Measured: 198 s for 5 seeds on 2 busy cores, final accuracy 98.3 ± 0.2, forgetting 0.0 ± 0.0 (mean and 95 percent
interval). From a network that is, as it is meant: `python -m experiments.evidence --name=clr`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """Random convolutions, whose channels each task reprograms."""
    config = split_fashion_mnist("clr", ("clr",), arg)
    config.scenario = {"name": "task_incremental", "num_experiences": 5}
    config.model = {"name": "CNN", "widths": (8, 16), "norm": "batch"}
    config.epochs = 1
    config.clr = {"num_tasks": 5, "size": 3, "pointwise": "none"}
    return config

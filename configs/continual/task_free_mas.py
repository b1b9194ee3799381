"""Task-free MAS (arXiv 1812.03596) on permuted Fashion-MNIST, one head, one pass, no boundaries told.

python -m experiments.continual --config=configs/continual/task_free_mas.py --workdir=runs/task_free_mas --seeds=5

Measured: 140 s for 5 seeds on 2 cores in use, final accuracy 61.2 ± 3.9, forgetting 17.3 ± 4.4 (mean and 95 percent interval).
Plain training, and the memory alone: `python -m experiments.evidence --name=task_free_mas`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """Two rows beside batches of ten; a mean loss of 0.6 is rest for ten classes."""
    config = split_fashion_mnist("task_free_mas", ("task_free_mas",), arg)
    config.scenario = {"name": "permuted", "num_experiences": 10}
    config.model = {"name": "MLP", "hidden": (100, 100)}
    config.optimizer = {"name": "sgd", "learning_rate": 0.05}
    config.batch_size = 10
    config.epochs = 1
    config.task_free_mas = {"lam": 0.3, "size": 2, "mean": 0.6}
    return config

"""BiC (arXiv 1905.13260) on Split-Fashion-MNIST, 50 exemplars of each class, 5 of them held out.

python -m experiments.continual --config=configs/continual/bic.py --workdir=runs/bic --seeds=5

Measured: 202 s for 5 seeds on 2 busy cores, final accuracy 80.9 ± 1.0, forgetting 13.9 ± 2.5 (mean and 95 percent
interval); at 20 exemplars a class, and against `er`: `python -m experiments.evidence --name=bic`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """As many rows as `er` has; only the classes seen so far compete, as in the paper."""
    config = split_fashion_mnist("bic", ("bic",), arg)
    config.scenario.heads = "seen"
    config.bic = {"size": 50, "held_out": 5, "temperature": 2.0}
    return config

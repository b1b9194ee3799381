"""HLOP (arXiv 2402.11984) on permuted Fashion-MNIST, one head, under Adam: the projection comes after it.

python -m experiments.continual --config=configs/continual/hlop.py --workdir=runs/hlop --seeds=5

Measured: 435 s for 5 seeds on 2 cores that others were using too; final accuracy 81.6 ± 0.7, forgetting 0.5 ± 0.2
(mean and 95 percent interval); plain training and singular vectors: `python -m experiments.evidence --name=hlop`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """The authors' rate of hidden layers, momentum, iterations; rows for 40 of 784 directions, 20 of 100 hidden."""
    config = split_fashion_mnist("hlop", ("hlop",), arg)
    config.scenario = {"name": "permuted", "num_experiences": 5}
    config.model = {"name": "MLP", "hidden": (100, 100)}
    config.epochs = 1
    config.hlop = {"rank": 40, "lr": 0.01, "momentum": 0.9, "iterations": 5}
    return config

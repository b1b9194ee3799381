"""A-GEM (arXiv 1812.00420) on permuted Fashion-MNIST, 1000 rows of memory, plain SGD as in the paper.

python -m experiments.continual --config=configs/continual/agem.py --workdir=runs/agem --seeds=5

Measured: 13 s for 5 seeds on 2 cores, final accuracy 74.7 ± 3.3, forgetting 2.3 ± 4.0 (mean and
95 percent interval); plain training in the same place: `python -m experiments.evidence --name=agem`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """A reservoir of 1000, filled when an experience is over; 128 rows of it in each step."""
    config = split_fashion_mnist("agem", ("agem",), arg)
    config.scenario = {"name": "permuted", "num_experiences": 5}
    config.model = {"name": "MLP", "hidden": (100, 100)}
    config.optimizer = {"name": "sgd", "learning_rate": 0.1}
    config.epochs = 1
    config.agem = {"size": 1000, "batch_size": 128}
    return config

"""OSF (arXiv 2504.07097) on permuted Fashion-MNIST, one head, under SGD: half of the singular vectors are kept.

python -m experiments.continual --config=configs/continual/osf.py --workdir=runs/osf --seeds=5

Measured: 10 s for 5 seeds on 2 cores, final accuracy 73.1 ± 0.5, forgetting 3.7 ± 1.2 (mean and 95 percent interval);
plain training in the same place: `python -m experiments.evidence --name=osf`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """The share of the authors' code, of all kernels."""
    config = split_fashion_mnist("osf", ("osf",), arg)
    config.scenario = {"name": "permuted", "num_experiences": 5}
    config.model = {"name": "MLP", "hidden": (100, 100)}
    config.optimizer = {"name": "sgd", "learning_rate": 0.1}
    config.epochs = 1
    config.osf = {"keep": 0.5}
    return config

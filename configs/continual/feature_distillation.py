"""Feature distillation (arXiv 2203.17269) with the local loss, on class-incremental Split-Fashion-MNIST.

python -m experiments.continual --config=configs/continual/feature_distillation.py --workdir=runs/feature_distillation --seeds=5

MEASURED
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """Rows of an experience are told apart from one another alone, as in the second paper."""
    config = split_fashion_mnist("feature_distillation", ("local_loss", "feature_distillation"), arg)
    config.feature_distillation = {"lam": 1.0}
    return config

"""SLCA (arXiv 2303.05118) on Split-Fashion-MNIST, from a network that is not trained before.

python -m experiments.continual --config=configs/continual/slca.py --workdir=runs/slca --seeds=5

Measured: 51 s for 5 seeds on 2 cores, final accuracy 58.8 ± 1.1, forgetting 42.6 ± 1.1 (mean and 95 percent interval).
From a network that is, as it is meant: `python -m experiments.evidence --name=slca`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """No row is stored. The first experience is slow too, under a head of Adam's own rate."""
    config = split_fashion_mnist("slca", ("slca",), arg)
    config.slca = {"scale": 0.01, "steps": 160, "samples": 8, "temperature": 0.1, "learning_rate": 0.01}
    return config

"""DKVB (arXiv 2207.11240) on Split-Fashion-MNIST: random features of a network that never learns, and no memory.

python -m experiments.continual --config=configs/continual/dkvb.py --workdir=runs/dkvb --seeds=5

Measured: 165 s for 5 seeds on 2 busy cores, final accuracy 62.1 ± 1.8, forgetting 23.8 ± 1.2 (mean and 95 percent
interval).
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """Keys from the first two classes; the rate is in the paper's range."""
    config = split_fashion_mnist("dkvb", ("dkvb",), arg)
    config.optimizer = {"name": "sgd", "learning_rate": 0.3}
    config.epochs = 1 if arg == "runlocal" else 2
    config.dkvb = {"codebooks": 32, "keys": 256, "key_dim": 8}
    return config

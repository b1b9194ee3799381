"""SHARP (arXiv 2305.18563) on Split-Fashion-MNIST: five experiences of two classes, one head, an MLP.

python -m experiments.continual --config=configs/continual/sharp.py --workdir=runs/sharp --seeds=5

Measured: 165 s for 5 seeds on a crowded core, final accuracy 50.3 ± 6.1, forgetting 48.9 ± 6.2 (mean and 95 percent
interval). From a first layer that is trained and stays, as it is meant: `python -m experiments.evidence --name=sharp`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """What the second layer is given is replayed; ten changes of connections in an experience."""
    config = split_fashion_mnist("sharp", ("sharp",), arg)
    config.model = {"name": "MLP", "hidden": (400, 400, 400)}
    config.sharp = {"layer": "dense_1", "size": 50, "recent": 2, "density": 0.4, "share": 0.9, "every": 63}
    return config

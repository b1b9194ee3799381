"""GDumb (ECCV 2020) on Split-Fashion-MNIST, 500 rows of memory.

python -m experiments.continual --config=configs/continual/gdumb.py --workdir=runs/gdumb --seeds=5

Measured: 295 s for 5 seeds on 2 busy cores, final accuracy 78.2 ± 1.1, forgetting 11.8 ± 1.9 (mean and 95 percent
interval).
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """The authors' training for MNIST, 128 epochs over the memory; one step an experience, as nothing is learned."""
    config = split_fashion_mnist("gdumb", ("gdumb",), arg)
    config.gdumb = {"size": 500, "epochs": 4 if arg == "runlocal" else 128, "learning_rate": 0.05}
    config.steps = 1
    return config

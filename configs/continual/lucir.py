"""LUCIR (Hou et al., CVPR 2019) on Split-Fashion-MNIST, 50 exemplars of each class.

python -m experiments.continual --config=configs/continual/lucir.py --workdir=runs/lucir --seeds=5

Measured: 174 s for 5 seeds on 2 busy cores, final accuracy 76.7 ± 1.6, forgetting 25.3 ± 2.3 (mean and 95 percent
interval); at 20 exemplars a class, and against `er`: `python -m experiments.evidence --name=lucir`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """The paper's weights for CIFAR-100; the scale starts at 10, as Adam at 1e-3 would not take it there."""
    config = split_fashion_mnist("lucir", ("lucir",), arg)
    config.scenario.heads = "seen"
    config.lucir = {"size": 50, "lam": 5.0, "margin": 0.5, "num_hard": 2, "eta": 10.0}
    return config

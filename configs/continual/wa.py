"""WA (arXiv 1911.07053) on Split-Fashion-MNIST, 50 exemplars of each class.

python -m experiments.continual --config=configs/continual/wa.py --workdir=runs/wa --seeds=5

Measured: 297 s for 5 seeds on 2 busy cores, final accuracy 79.2 ± 1.4, forgetting 19.4 ± 4.2 (mean and 95 percent
interval); at 20 exemplars a class, and against `er`: `python -m experiments.evidence --name=wa`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """As many rows as `er` has, chosen by herding; only the classes seen so far compete, as in the paper."""
    config = split_fashion_mnist("wa", ("wa",), arg)
    config.scenario.heads = "seen"
    config.wa = {"size": 50, "temperature": 2.0}
    return config

"""Selfless learning (arXiv 1806.05421) with MAS on permuted Fashion-MNIST.

python -m experiments.continual --config=configs/continual/selfless.py --workdir=runs/selfless --seeds=5

Measured: 229 s for 5 seeds on a core that others were using too; final accuracy 68.2 ± 9.6, forgetting 16.1 ± 12.1 (mean
and 95 percent interval). On MNIST, against MAS alone: `python -m experiments.evidence --name=selfless`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """A small network: one that is full after a few experiences."""
    config = split_fashion_mnist("selfless", ("mas", "selfless"), arg)
    config.scenario = {"name": "permuted", "num_experiences": 5}
    config.model.hidden = (64, 64)
    config.mas = {"lam": 0.03}
    config.selfless = {"lam": 1e-3, "sigma": 1 / 6}
    return config

"""Binary weights with a prior (arXiv 2212.02846) on permuted Fashion-MNIST, one head.

python -m experiments.continual --config=configs/continual/binary_variational.py --workdir=runs/binary_variational --seeds=5

Measured: 106 s for 5 seeds on 2 cores that others were using too; final accuracy 71.2 ± 1.6, forgetting 1.6 ± 0.5
(mean and 95 percent interval); without a prior: `python -m experiments.evidence --name=binary_variational`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """Fields take larger steps than weights; the prior counts a tenth."""
    config = split_fashion_mnist("binary_variational", ("binary_variational",), arg)
    config.scenario = {"name": "permuted", "num_experiences": 5}
    config.model = {"name": "MLP", "hidden": (100, 100)}
    config.optimizer.learning_rate = 1e-2
    config.epochs = 1
    config.binary_variational = {"weight": 0.1}
    return config

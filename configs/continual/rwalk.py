"""RWalk (arXiv 1801.10112) on task-incremental Split-Fashion-MNIST.

python -m experiments.continual --config=configs/continual/rwalk.py --workdir=runs/rwalk --seeds=5

Measured: 701 s for 5 seeds on 2 cores that about fifteen busy processes shared; final accuracy 98.2 ± 1.3, forgetting
0.9 ± 1.8 (mean and 95 percent interval). Against plain training: `python -m experiments.evidence --name=rwalk`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """The walk's arguments are those of the author's code; its memory is left out (chain `er` for it)."""
    config = split_fashion_mnist("rwalk", ("rwalk",), arg)
    config.scenario.name = "task_incremental"
    config.rwalk = {"lam": 10.0, "alpha": 0.9, "period": 10, "damping": 1e-3}
    return config

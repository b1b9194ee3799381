"""GCAB (arXiv 2211.12292) on Split-Fashion-MNIST: gates in a block for each experience, drifted features led back.

python -m experiments.continual --config=configs/continual/gcab.py --workdir=runs/gcab --seeds=5

Measured: 18 s for 5 seeds on 2 cores in use, final accuracy 27.7 ± 8.3, forgetting 50.5 ± 15.4 (mean and 95 percent
interval); 22.9 ± 11.1 with --config.gcab.lam=1. The claims of the paper: `python -m experiments.evidence --name=gcab`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """The authors' strengths of the gates; a small network of whose features the block is made."""
    config = split_fashion_mnist("gcab", ("gcab",), arg)
    config.model.hidden = (100, 48)
    config.epochs = 1 if arg == "runlocal" else 5
    config.gcab = {"num_tasks": 5, "heads": 4, "sharpest": 800.0, "sparse": 0.05, "lam": 10.0}
    return config

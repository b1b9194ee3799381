"""OVOR (arXiv 2402.04129) with the slow learner of SLCA, on class-incremental Split-Fashion-MNIST.

python -m experiments.continual --config=configs/continual/ovor.py --workdir=runs/ovor --seeds=5

Measured: 68 s for 5 seeds on 2 cores, final accuracy 41.9 ± 1.7, forgetting 38.6 ± 2.3 (mean and 95 percent interval).
With the local loss alone in place of the slow learner the network moves away from its head: 19.3 ± 10.6.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """No row is stored, and the network hardly moves; on a frozen one: `experiments.evidence --name=ovor`."""
    config = split_fashion_mnist("ovor", ("ovor", "slca"), arg)
    config.ovor = {"lam": 0.1, "noise": 3.0, "inside": 15.0, "outside": 3.0, "steps": 200}
    config.slca = {"scale": 0.01, "steps": 0}
    return config

"""CheckFree (arXiv 2506.15461) on a ViT of six blocks that loses one every hundred steps, on Fashion-MNIST.

python -m experiments.continual --config=configs/fault/checkfree.py --workdir=runs/checkfree --seeds=5

Measured: 44 s for 5 seeds on 2 cores, final accuracy 76.3 ± 1.6 (mean and 95 percent interval) with about six
blocks lost in 626 steps. Against other repairs: `python -m experiments.evidence --name=checkfree`.
"""

from configs.common import split_fashion_mnist


def get_config(arg=None):
    """All classes at once; two epochs of 313 steps."""
    config = split_fashion_mnist("checkfree", ("checkfree",), arg)
    config.arrival = "joint"
    config.model = {"name": "ViT", "patch": 7, "width": 32, "depth": 6, "heads": 4}
    config.epochs = 1 if arg == "runlocal" else 2
    config.checkfree = {"failure_rate": 0.01, "stages": "block_", "lr_scale": 1.1, "recover": "average"}
    if arg == "runlocal":
        config.model.update(patch=4, depth=3)  # digits have sides of 8
    return config

"""SEMA (arXiv 2403.18886) on Split-MNIST (2,000 rows) from a frozen vision transformer of Fashion-MNIST.

python -m experiments.continual --config=configs/peft/sema.py --workdir=runs/sema --seeds=5

`python -m experiments.pretrain --name=vit_fashion_mnist --data_dir=DIR` comes first, once; DIR is where `make data`
prepared the data, for --config.source.data_dir=DIR. Measured: 174 s for 5 seeds on crowded cores, final accuracy
24.3 ± 5.9, forgetting 15.4 ± 14.4 (mean and 95 percent interval): no row is ever told apart from classes of another
experience.
"""

from configs.common import split_mnist_on_a_frozen_vit


def get_config(arg=None):
    """Modules beside the last three of four blocks, the rest of the paper but for narrower descriptors."""
    config = split_mnist_on_a_frozen_vit("sema", ("sema", "local_loss"), arg)
    config.epochs = 2
    layers = "^block_[123]$"
    if arg == "runlocal":
        layers = "^block_0$"
    else:
        config.source.update(train_split="train[:2000]", test_split="test[:2000]")
    config.optimizer.learning_rate = 3e-3
    config.sema = {"layers": layers, "max_modules": 5, "bottleneck": 16, "code": 32, "threshold": 1.0, "train": "^head"}
    if arg == "runlocal":
        config.sema.code = 8
    return config

"""EAR (arXiv 2308.02084) on Split-MNIST (2,000 rows) from a frozen vision transformer of Fashion-MNIST.

python -m experiments.continual --config=configs/continual/ear.py --workdir=runs/ear --seeds=5

`python -m experiments.pretrain --name=vit_fashion_mnist --data_dir=DIR` comes first, once; DIR is where `make data`
prepared the data, for --config.source.data_dir=DIR. Measured: 268 s for 5 seeds on crowded cores, final accuracy 45.2 ±
2.8, forgetting 17.3 ± 1.8 (mean and 95 percent interval).
"""

from configs.common import split_mnist_on_a_frozen_vit


def get_config(arg=None):
    """Codes of 4,000 signs, and an adaptor for the first classes as well, since the encoder is of clothes."""
    config = split_mnist_on_a_frozen_vit("ear", ("ear",), arg)
    config.epochs = 2
    if arg != "runlocal":
        config.source.update(train_split="train[:2000]", test_split="test[:2000]")
    config.optimizer.learning_rate = 3e-3
    config.ear = {"max_domains": 5, "dim": 4_000, "threshold": 1.0, "rows": 32, "adapt_first": True}
    return config

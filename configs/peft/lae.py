"""LAE (arXiv 2303.10070) on Split-MNIST from a frozen vision transformer of Fashion-MNIST, with LoRA as the adapter.

python -m experiments.continual --config=configs/peft/lae.py --workdir=runs/lae --seeds=5

`python -m experiments.pretrain --name=vit_fashion_mnist --data_dir=DIR` comes first, once; DIR is where `make data`
prepared the data, for --config.source.data_dir=DIR. Measured: 187 s for 5 seeds on 2 busy cores, final accuracy 37.7 ±
9.5, forgetting 20.3 ± 7.3 (mean and 95 percent interval).
"""

from configs.common import split_mnist_on_a_frozen_vit


def get_config(arg=None):
    """Rank 4 in every kernel; the offline adapter is an average over about the last hundred steps."""
    config = split_mnist_on_a_frozen_vit("lae", ("lae", "local_loss"), arg)
    config.epochs = 2
    config.optimizer.learning_rate = 3e-3
    config.lae = {"pet": {"name": "lora", "rank": 4, "train": "^head"}, "decay": 0.99}
    return config

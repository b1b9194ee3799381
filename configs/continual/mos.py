"""MOS (arXiv 2412.09441) on Split-MNIST from a frozen vision transformer of Fashion-MNIST, with LoRA as the adapter.

python -m experiments.continual --config=configs/continual/mos.py --workdir=runs/mos --seeds=5

`python -m experiments.pretrain --name=vit_fashion_mnist --data_dir=DIR` comes first, once; DIR is where `make data`
prepared the data, for --config.source.data_dir=DIR. Measured: 2433 s for 5 seeds on crowded cores, final accuracy
55.4 ± 1.3, forgetting 13.2 ± 1.0 (mean and 95 percent interval). On an MLP: `python -m experiments.evidence --name=mos`.
"""

from configs.common import split_mnist_on_a_frozen_vit


def get_config(arg=None):
    """Rank 4 in every kernel, the rest of the paper."""
    config = split_mnist_on_a_frozen_vit("mos", ("mos",), arg)
    config.epochs = 2
    config.optimizer.learning_rate = 3e-3
    config.mos = {
        "pet": {"name": "lora", "rank": 4, "train": "^head"},
        "momentum": 0.1,
        "reg": 0.1,
        "temperature": 0.8,
        "steps": 300,
        "samples": 24,
        "learning_rate": 0.005,
        "max_rounds": 4,
    }
    return config

"""Split-CIFAR-100, class-incremental: ten experiences of ten classes, fifty passes, ResNet-18 of full width.

python -m experiments.continual --config=configs/leaderboard/split_cifar100.py:er --workdir=runs/er --seeds=3

Every method: `python -m experiments.leaderboard --board=split_cifar100 --data_dir=DIR` with DIR as tensorflow-datasets prepared
it. It is an accelerator's work and was not measured.
"""

from configs.leaderboard import board_config

METHODS = ("derpp", "er", "er_ace", "icarl", "joint", "lucir", "naive", "wa")
SEEDS = 3


def get_config(arg: str | None = None):
    """One of METHODS; each seed deals the classes by its own."""

    def change(config):
        config.source = {"name": "tfds", "dataset": "cifar100"}
        config.scenario = {"name": "class_incremental", "num_experiences": 10, "seed": 0}
        config.model = {"name": "ResNet18", "width": 64}
        config.optimizer = {"name": "sgd", "learning_rate": 0.03}
        config.epochs = 50

    return board_config("split_cifar100", METHODS, arg, change, memory=2000, classes=100)

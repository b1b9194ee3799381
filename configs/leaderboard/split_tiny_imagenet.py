"""Split-Tiny-ImageNet, class-incremental: ten experiences of twenty classes, a hundred passes, ResNet-18 of full width.

python -m experiments.continual --config=configs/leaderboard/split_tiny_imagenet.py:er --workdir=runs/er --seeds=3

Every method: `python -m experiments.leaderboard --board=split_tiny_imagenet --data_dir=DIR` with DIR as tensorflow-datasets prepared
it. It is an accelerator's work and was not measured.

tensorflow-datasets has no builder of this name: prepare one from the folders of images as they are distributed, with
`tfds.folder_dataset.ImageFolder` and the name `tiny_imagenet`.
"""

from configs.leaderboard import board_config

METHODS = ("derpp", "er", "er_ace", "icarl", "joint", "lucir", "naive", "wa")
SEEDS = 3


def get_config(arg: str | None = None):
    """One of METHODS; each seed deals the classes by its own."""

    def change(config):
        config.source = {"name": "tfds", "dataset": "tiny_imagenet"}
        config.scenario = {"name": "class_incremental", "num_experiences": 10, "seed": 0}
        config.model = {"name": "ResNet18", "width": 64}
        config.optimizer = {"name": "sgd", "learning_rate": 0.03}
        config.epochs = 100

    return board_config("split_tiny_imagenet", METHODS, arg, change, memory=2000, classes=200)

"""Split-ImageNet-R, class-incremental: ten experiences of twenty classes, fifty passes, a ViT-B/16 from scratch.

python -m experiments.continual --config=configs/leaderboard/imagenet_r.py:er --workdir=runs/er --seeds=3

Every method: `python -m experiments.leaderboard --board=imagenet_r --data_dir=DIR` with DIR as tensorflow-datasets prepared
it. It is an accelerator's work and was not measured.

Its builder has one split: the first four fifths of it are for training. Images are read from the disk batch by batch.
"""

from configs.leaderboard import board_config

METHODS = ("derpp", "er", "er_ace", "icarl", "joint", "lucir", "naive", "wa")
SEEDS = 3


def get_config(arg: str | None = None):
    """One of METHODS; each seed deals the classes by its own."""

    def change(config):
        config.source = {"name": "tfds", "dataset": "imagenet_r", "size": 224, "resident": False}
        config.source.train_split, config.source.test_split = "test[:80%]", "test[80%:]"
        config.scenario = {"name": "class_incremental", "num_experiences": 10, "seed": 0}
        config.model = {"name": "ViT", "patch": 16, "width": 768, "depth": 12, "heads": 12}
        config.optimizer = {"name": "adamw", "learning_rate": 1e-4}
        config.epochs = 50

    return board_config("imagenet_r", METHODS, arg, change, memory=2000, classes=200)

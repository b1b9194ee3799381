"""CORe50, class-incremental (NC): ten experiences of five of its fifty objects, one pass, slim ResNet-18.

python -m experiments.continual --config=configs/leaderboard/core50.py:er --workdir=runs/er --seeds=3

Every method: `python -m experiments.leaderboard --board=core50 --data_dir=DIR` with DIR as tensorflow-datasets prepared
it. It is an accelerator's work and was not measured.

tensorflow-datasets has no builder of this name: prepare one from the 128 x 128 images as they are distributed (sessions
3, 7 and 10 are the test), with `tfds.folder_dataset.ImageFolder` and the name `core50`; they are brought to 64 x 64.
"""

from configs.leaderboard import board_config

METHODS = ("derpp", "er", "er_ace", "icarl", "joint", "lucir", "naive", "wa")
SEEDS = 3


def get_config(arg: str | None = None):
    """One of METHODS; each seed deals the classes by its own."""

    def change(config):
        config.source = {"name": "tfds", "dataset": "core50", "size": 64}
        config.scenario = {"name": "class_incremental", "num_experiences": 10, "seed": 0}
        config.model = {"name": "ResNet18", "width": 20}
        config.optimizer = {"name": "sgd", "learning_rate": 0.03}
        config.epochs = 1

    return board_config("core50", METHODS, arg, change, memory=2000, classes=50)

"""Rotated-MNIST, domain-incremental: 10,000 images at ten angles from 0 to 90 degrees, one pass each.

python -m experiments.continual --config=configs/leaderboard/rotated_mnist.py:er --workdir=runs/er --seeds=5

Every method: `python -m experiments.leaderboard --board=rotated_mnist --data_dir=DIR` with DIR as `make data` prepared it.
Measured: README.md in this folder.
"""

from configs.leaderboard import board_config

METHODS = (
    "agem", "der", "derpp", "er", "ewc", "ewc:online", "gem", "gpm", "joint", "l2_anchor", "lwf", "mas", "mir", "naive",
    "refresh", "rwalk", "si",
)  # fmt: skip
SEEDS = 5


def get_config(arg: str | None = None):
    """One of METHODS."""

    def change(config):
        config.source = {"name": "tfds", "dataset": "mnist", "train_split": "train[:10000]"}
        config.scenario = {"name": "rotated", "num_experiences": 10, "degrees": 90.0}
        config.epochs = 1

    return board_config("rotated_mnist", METHODS, arg, change)

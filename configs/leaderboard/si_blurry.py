"""Si-Blurry Fashion-MNIST, online: classes in random numbers, some of their rows at other times, no boundary told.

python -m experiments.continual --config=configs/leaderboard/si_blurry.py:er --workdir=runs/er --seeds=5

Every method that needs no boundary: `python -m experiments.leaderboard --board=si_blurry`. One pass in batches of 10.
Measured: README.md in this folder.
"""

from configs.leaderboard import board_config

METHODS = ("der", "derpp", "er", "joint", "mir", "naive", "nmc")
SEEDS = 5


def get_config(arg: str | None = None):
    """One of METHODS; each seed deals the rows by its own."""

    def change(config):
        config.scenario = {"name": "si_blurry", "num_experiences": 5, "seed": 0}
        config.batch_size = 10
        config.epochs = 1

    return board_config("si_blurry", METHODS, arg, change)

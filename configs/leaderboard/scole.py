"""SCoLe on Fashion-MNIST: 100 times two of ten classes drawn at random, one pass each.

python -m experiments.continual --config=configs/leaderboard/scole.py:er --workdir=runs/er --seeds=5

Every method: `python -m experiments.leaderboard --board=scole`. Measured: README.md in this folder.
"""

from configs.leaderboard import board_config

METHODS = ("agem", "derpp", "er", "ewc:online", "mir", "naive", "nmc", "scr")
SEEDS = 5


def get_config(arg: str | None = None):
    """One of METHODS; each seed draws the classes by its own."""

    def change(config):
        config.scenario = {"name": "scole", "num_experiences": 100, "seed": 0}
        config.epochs = 1

    return board_config("scole", METHODS, arg, change)

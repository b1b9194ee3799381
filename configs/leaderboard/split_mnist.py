"""Split-MNIST, class-incremental: 60,000 images, five experiences of two classes, one pass.

python -m experiments.continual --config=configs/leaderboard/split_mnist.py:er --workdir=runs/er --seeds=5

Every method: `python -m experiments.leaderboard --board=split_mnist --data_dir=DIR` with DIR as `make data` prepared it.
Measured: README.md in this folder. No value of a method was chosen on this stream: they are those of
Split-Fashion-MNIST.
"""

from configs.leaderboard import board_config, every_method

METHODS = every_method()
SEEDS = 5


def get_config(arg: str | None = None):
    """One of METHODS; each seed deals the classes by its own."""

    def change(config):
        config.source = {"name": "tfds", "dataset": "mnist"}
        config.scenario.seed = 0
        config.epochs = 1

    return board_config("split_mnist", METHODS, arg, change)

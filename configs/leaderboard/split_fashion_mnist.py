"""Split-Fashion-MNIST, class-incremental: 10,000 images, five experiences of two classes, ten passes.

python -m experiments.continual --config=configs/leaderboard/split_fashion_mnist.py:er --workdir=runs/er --seeds=5

Every method: `python -m experiments.leaderboard --board=split_fashion_mnist`. Measured: README.md in this folder. The
values of methods were chosen on this stream or taken from their papers: look at `split_mnist` for data that they have
not seen.
"""

from configs.leaderboard import board_config, every_method

METHODS = every_method()
SEEDS = 5


def get_config(arg: str | None = None):
    """One of METHODS; each seed deals the classes by its own."""

    def change(config):
        config.scenario.seed = 0

    return board_config("split_fashion_mnist", METHODS, arg, change)

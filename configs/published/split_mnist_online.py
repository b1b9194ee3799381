"""Split-MNIST in one pass, and GDumb: three rows of the table of ContinualAI's baselines.

The protocols are those of their code (ContinualAI/continual-learning-baselines, experiments/split_mnist/), which was
opened: batches of 10 and 10 more from memory, SGD, each row seen once, 5 percent of the training rows held out;
`replay`: class-balanced memory of 1,000, rate 0.1, an MLP with one hidden layer of 512 and dropout 0.5, inputs
normalised; `mir`: memory of 500, rate 0.05, an MLP with one hidden layer of 400 and dropout 0.5, 1,000 rows of each
experience, 50 candidates; `gdumb`: memory of 4,400, an MLP with two hidden layers of 400, ten epochs over the memory in
batches of 16, rate 0.1.

python -m experiments.continual --config=configs/published/split_mnist_online.py:mir --workdir=runs/online_mir --seeds=5

Every cell at once, held against the numbers below: `python -m experiments.published --table=split_mnist_online
--data_dir=DIR` with DIR as `make data` prepared it. Measured: README.md in this folder.
"""

from ml_collections import ConfigDict

from configs.common import split_fashion_mnist
from configs.published import Published

TABLE = "the table of their README"
PUBLISHED = {
    "replay": Published(92.0, TABLE),
    "mir": Published(87.0, "the target of their test"),
    "gdumb": Published(97.0, TABLE),
}
METHODS = {"replay": "er", "mir": "mir", "gdumb": "gdumb"}


def get_config(arg: str | None = None) -> ConfigDict:
    """A key of PUBLISHED; `,runlocal` behind it takes digits, for a first look."""
    learner, *rest = f"{arg},".split(",")
    if learner not in PUBLISHED or set(rest) - {"", "runlocal"}:
        raise ValueError(f"The config takes one of {' '.join(PUBLISHED)}, or that with ',runlocal', got {arg!r}.")
    config = split_fashion_mnist(f"online_{learner}", (METHODS[learner],), ",".join(filter(None, rest)))
    if "runlocal" not in rest:
        config.source = {"name": "tfds", "dataset": "mnist"}
    config.epochs = 1
    config.batch_size = 10
    config.model = {"name": "MLP", "hidden": (400,), "dropout": 0.5, "initializer": "torch"}
    config.optimizer = {"name": "sgd", "learning_rate": 0.1}
    if learner == "replay":
        config.source.mean, config.source.std = 0.1307, 0.3081
        config.scenario.valid_fraction = 0.05
        config.model.hidden = (512,)
        config.er = {"size": 1000, "policy": "class_balanced"}
    elif learner == "mir":
        # Their loss adds the means of new and replayed rows, ours is the mean of all: the same step at twice 0.05.
        config.optimizer.learning_rate = 0.1
        config.steps = 100  # 1,000 rows, each once
        config.mir = {"size": 500, "lr": 0.05, "candidates": 50}
    else:
        config.model = {"name": "MLP", "hidden": (400, 400), "initializer": "torch"}
        config.source.mean, config.source.std = 0.1307, 0.3081
        config.steps = 1  # nothing is learned before an experience is over
        config.gdumb = {"size": 4400, "epochs": 10, "learning_rate": 0.1, "schedule": "constant", "momentum": 0.0}
    return config

"""The keys that every config of `experiments.continual` has, with the values that most share."""

from ml_collections import ConfigDict, config_dict


def split_fashion_mnist(name: str, methods: tuple[str, ...], arg: str | None) -> ConfigDict:
    """Split-Fashion-MNIST: five experiences of two classes, from the embedded data, one head for all classes.

    Args:
      name: of the run, in tables and in the report.
      methods: names in `ctrain_jax.continual`, chained from first to last; `()` only trains. The arguments of a method
        are the section `config.<method>`.
      arg: what follows the colon of `--config=FILE.py:ARG`; "runlocal" makes the run small enough for a first look.

    Returns:
      The config.

    Raises:
      ValueError: another `arg`.
    """
    if arg not in (None, "", "runlocal"):
        raise ValueError(f"The config takes no argument or 'runlocal', got {arg!r}.")
    config = ConfigDict(sort_keys=False)
    config.name = name
    config.seed = 0  # the first one; --seeds=5 runs 0 to 4
    config.source = {"name": "fashion_mnist"}  # in ctrain_jax.streams, and its arguments (of tfds: dataset, data_dir)
    config.scenario = {"name": "class_incremental", "num_experiences": 5, "valid_fraction": 0.0}
    config.arrival = "incremental"  # "joint": all at once; "cumulative": all so far; "power_law": some of it
    config.model = {"name": "MLP", "hidden": (400, 400)}  # in ctrain_jax.models
    config.optimizer = {"name": "adam", "learning_rate": 1e-3}  # in optax, or diffgrad
    config.methods = methods
    config.batch_size = 32
    config.epochs = 1 if arg == "runlocal" else 10
    config.steps = config_dict.placeholder(int)  # of each experience, in place of epochs
    config.trace_every = 0  # steps between two tests within an experience, for the stability gap; 0: no such tests
    # config.weights = "FILE", of core.save_tensors, or a name of configs/pretrain.py: what the model starts from
    # config.online = True: also predict each batch before it is learned, in one pass: prequential accuracy
    if arg == "runlocal":
        config.source = {"name": "digits"}
    return config


def split_mnist_on_a_frozen_vit(name: str, methods: tuple[str, ...], arg: str | None) -> ConfigDict:
    """Split-MNIST (5,000 rows) from a vision transformer of Fashion-MNIST, for methods that freeze it.

    Args:
      name, methods, arg: as in `split_fashion_mnist`; "runlocal" starts from no trained network.

    Returns:
      The config. `python -m experiments.pretrain --name=vit_fashion_mnist` makes what it starts from.

    Raises:
      ValueError: another `arg`.
    """
    config = split_fashion_mnist(name, methods, arg)
    config.model = {"name": "ViT", "patch": 4, "width": 16, "depth": 1}
    if arg != "runlocal":
        config.source = {"name": "tfds", "dataset": "mnist", "train_split": "train[:5000]"}
        config.model = {"name": "ViT", "patch": 7, "width": 64, "depth": 4}
        config.weights = "vit_fashion_mnist"
        config.epochs = 5
    return config

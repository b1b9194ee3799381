"""Train the small backbones that methods for trained networks start from, once.

  python -m experiments.pretrain --name=vit_fashion_mnist --data_dir=DIR
  python -m experiments.pretrain --name=all --data_dir=DIR

The recipes are configs/pretrain.py, DIR is where `make data` prepared the data. What is trained is kept under a hash of
its config in ~/.cache/ctrain_jax/pretrained: a second call only says where, a stopped one goes on. A run starts from it
by --config.weights=vit_fashion_mnist, your code by `core.load_tensors(path)`.

Prints a line for each: name, accuracy in percent, seconds, path. Exit codes: 0 all are there, 2 wrong use or missing
data, 128 + the number of the signal that stopped it.
"""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from configs import pretrain
from ctrain_jax import core
from experiments import _build, _cli, _cost, _weights
from experiments.continual import load, train


def pretrained(
    name: str,
    data_dir: str | None = None,
    cache: str | Path | None = None,
    *,
    quiet: bool = True,
    received: Sequence[int] = (),
) -> Path | None:
    """Train a backbone, unless it is there.

    Args:
      name: in `configs.pretrain.BACKBONES`.
      data_dir: where its data set is prepared.
      cache: folder of the backbones, `~/.cache/ctrain_jax/pretrained` by default.
      quiet: tell the start and the end only.
      received: numbers of signals, as in `experiments.continual.train`.

    Returns:
      The file of its Variables, for `core.load_tensors`; None when a signal stopped it.

    Raises:
      ConfigError: the data are not there, or the folder is in use.
    """
    folder = _weights.folder(name, cache)
    path = folder / "variables.safetensors"
    if not path.is_file():
        config = pretrain.get_config(name)
        if data_dir is not None:
            config.source.data_dir = data_dir
        try:
            if not train(config, folder, quiet=quiet, received=received)["finished"]:
                return None
        except _build.ConfigError as error:  # by the name of the flag that there is here
            raise _build.ConfigError(str(error).replace("--workdir", "--cache")) from error
        _, state = load(folder)
        part = path.with_suffix(".part")
        core.save_tensors(part, state)
        os.replace(part, path)
    return path


def define_flags() -> None:
    """The flags of the binary; not when it is imported, as flags of all binaries share their names."""
    flags.DEFINE_enum("name", None, ("all", *pretrain.BACKBONES), "The backbone, or all of them.")
    flags.DEFINE_string("data_dir", None, "Where the data are prepared for tensorflow-datasets.")
    flags.DEFINE_string("cache", None, "Folder of the backbones; ~/.cache/ctrain_jax/pretrained by default.")


def main(argv: Sequence[str]) -> int:
    """Trains what the flags name."""
    given = flags.FLAGS
    if argv[1:]:
        _cli.fail(f"unexpected argument {argv[1]!r}: name a backbone with --name (see --help).")
    if given.name is None:
        _cli.fail(f"expected --name, one of all, {', '.join(pretrain.BACKBONES)}.")
    _cost.use_cache()
    with _cli.signals() as received:
        for name in pretrain.BACKBONES if given.name == "all" else [given.name]:
            try:
                path = pretrained(name, given.data_dir, given.cache, quiet=False, received=received)
            except _build.ConfigError as error:
                _cli.fail(str(error))
            except _cli.Fault as error:
                _cli.fail(str(error), error.code)
            if path is None:
                return 128 + (received or [signal.SIGTERM])[0]
            result = json.loads((path.parent / "result.json").read_text())
            accuracy = 100 * result["matrices"][0][-1][-1]
            print(f"{name} {accuracy:.1f} percent, {result['seconds']:.0f} s  {path}", flush=True)
    return 0


if __name__ == "__main__":
    define_flags()
    _cli.run(main)

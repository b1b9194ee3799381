"""From a config to a learner, with a sentence for everything that is wrong in it."""

import contextlib
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from ctrain_jax import continual, core, fault, models, optim, streams
from experiments import _cli


class ConfigError(ValueError):
    """Something in a config that its writer can mend; the message is one sentence, whatever the value is."""

    def __init__(self, message: str):
        line = " ".join(message.split())
        super().__init__(line if len(line) <= 600 else f"{line[:400]} ... {line[-150:]}")


OPTIMIZERS = types.SimpleNamespace(
    diffgrad=optim.diffgrad,
    **{k: getattr(optax, k) for k in ("adam", "adamw", "adagrad", "lamb", "lion", "nadam", "radam", "rmsprop", "sgd")},
)
METHODS = {
    name: factory
    for family in (continual, fault)
    for name, factory in ((name, getattr(family, name)) for name in family.__all__)
    if inspect.isfunction(factory) and inspect.signature(factory).return_annotation is core.Method
}
SCENARIOS = (
    "class_incremental",
    "domain_incremental",
    "few_shot_class_incremental",
    "generalized_class_incremental",
    "permuted",
    "rotated",
    "scole",
    "si_blurry",
    "task_incremental",
)
ARRIVALS = ("joint", "cumulative", "power_law")
SOURCES = ("digits", "fashion_mnist", "tfds")
MODELS = ("CNN", "MLP", "ResNet18", "ViT")
TOP = (
    "name",
    "seed",
    "source",
    "scenario",
    "arrival",
    "model",
    "optimizer",
    "methods",
    "batch_size",
    "epochs",
    "steps",
    "trace_every",
)


def build(
    config: ml_collections.ConfigDict,
    mesh: Any = None,
    stream: core.Stream | None = None,
    skip_nonfinite: bool = False,
    rules: Sequence[Any] = (),
) -> core.Learner:
    """The learner that a config describes.

    Args:
      config: see `configs/common.py` for what each key means.
      mesh: devices, as in `core.make_learner`.
      stream: what `build_stream(config)` returned, where it was built before.
      skip_nonfinite, rules: as in `core.make_learner`.

    Returns:
      The learner.

    Raises:
      ConfigError: an unknown key or name (with the nearest valid one), or a value that its factory refuses.
    """
    for key in config:
        known_name("key of config", key, (*TOP, *METHODS, *ARRIVALS))
    for key in TOP:
        if key not in config:
            raise ConfigError(f"config expects a value for {key}: set config.{key}, as in configs/common.py.")
    if not isinstance(config.name, str) or not config.name.strip() or not config.name.isprintable():
        raise ConfigError(f"config.name expects a few words on one line, got {config.name!r}.")
    if isinstance(config.seed, bool) or not isinstance(config.seed, int) or not 0 <= config.seed < 2**32:
        raise ConfigError(f"config.seed expects a whole number from 0 to 2**32 - 1, got {config.seed!r}.")
    every = config.trace_every
    if isinstance(every, bool) or not isinstance(every, int) or every < 0:
        raise ConfigError(f"config.trace_every expects a number of steps, or 0 for no trace, got {every!r}.")
    methods = config.methods
    if not isinstance(methods, list | tuple):
        raise ConfigError(f"config.methods expects a tuple of names, got {methods!r}: write ({methods!r},).")
    parts = []
    for name in methods:
        known_name("method", name, METHODS)
        parts.append(call(METHODS[name], f"config.{name}", config.get(name, {})))
    for key in config:
        if key in METHODS and key not in methods:
            raise ConfigError(f"config.{key} has no effect: add {key!r} to config.methods, got {tuple(methods)}.")
        if key in ARRIVALS and key != config.arrival:
            raise ConfigError(f"config.{key} has no effect: set config.arrival to {key!r}, got {config.arrival!r}.")
    stream = build_stream(config) if stream is None else stream
    module = named(models, "model", config.model, MODELS, num_classes=stream.source.num_classes)
    optimizer = named(OPTIMIZERS, "optimizer", config.optimizer, vars(OPTIMIZERS))
    refused("config.optimizer", jax.eval_shape, lambda x: optimizer.update(x, optimizer.init(x), x), jnp.zeros(1))
    options = {"batch_size": config.batch_size, "epochs": config.epochs, "steps": config.steps, "mesh": mesh}
    options |= {"skip_nonfinite": skip_nonfinite, "rules": rules}
    return refused(
        "config", core.make_learner, core.from_linen(module), core.chain(*parts), optimizer, stream, **options
    )


def build_source(config: ml_collections.ConfigDict) -> core.Source:
    """The data that a config describes."""
    return named(streams, "source", config.source, SOURCES, rename={"dataset": "name"})


def build_stream(config: ml_collections.ConfigDict, source: core.Source | None = None) -> core.Stream:
    """The stream that a config describes, over the `source` of `build_source` where that was read before."""
    source = build_source(config) if source is None else source
    stream = named(streams, "scenario", config.scenario, SCENARIOS, source=source)
    arrival = config.arrival
    known_name("value of config.arrival", arrival, ("incremental", *ARRIVALS))
    if arrival == "incremental":
        return stream
    return call(getattr(streams, arrival), f"config.{arrival}", config.get(arrival, {}), stream=stream)


def named(
    package: Any,
    kind: str,
    section: Mapping[str, Any],
    names: Iterable[str],
    rename: Mapping[str, str] | None = None,
    **given: Any,
) -> Any:
    """What the factory called `section.name` makes of the rest of the section and of `given`."""
    if not isinstance(section, Mapping | ml_collections.ConfigDict) or "name" not in section:
        raise ConfigError(f"config.{kind} expects keys, one of them name: {', '.join(sorted(names))}.")
    known_name(kind, section["name"], names)
    options = {k: v for k, v in section.items() if k != "name"}
    return call(getattr(package, section["name"]), f"config.{kind}", options, rename, **given)


def call(
    factory: Callable, where: str, options: Mapping[str, Any], rename: Mapping[str, str] | None = None, **given: Any
) -> Any:
    """The factory's result, after a check that it has such arguments; `rename` says what a key is called there."""
    if not isinstance(options, Mapping | ml_collections.ConfigDict):
        raise ConfigError(f"{where} expects keys, the arguments of {factory.__name__}, got {options!r}.")
    parameters = inspect.signature(factory).parameters
    taken = {*given, "self", "parent", "name"}  # flax modules have a parent and a name
    free = {name: name for name in parameters if name not in taken}
    free |= {key: name for key, name in (rename or {}).items() if name in parameters}
    for key in options:
        known_name(f"key of {where}", key, free)
    missing = [k for k, n in free.items() if parameters[n].default is inspect.Parameter.empty and k not in options]
    if missing:
        raise ConfigError(f"{where} expects a value for {', '.join(missing)}: set {where}.{missing[0]}.")
    return refused(where, factory, **given, **{free[k]: _plain(v) for k, v in options.items()})


def refused(where: str, function: Callable, *args: Any, **options: Any) -> Any:
    """The function's result; what it refuses is told with the place in the config."""
    try:
        with in_memory():
            return function(*args, **options)
    except ConfigError:
        raise
    except (ValueError, TypeError, OSError, OverflowError) as error:
        raise ConfigError(f"{where}: {error}") from error


@contextlib.contextmanager
def in_memory() -> Iterator[None]:
    """What the memory of a device is too small for ends in a sentence.

    Raises:
      ConfigError: in place of JAX's error.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ConfigError(f"config asks for more memory than the device has: {error}") from error


def known_name(kind: str, name: str, names: Iterable[str]) -> None:
    """Raises ConfigError with the nearest valid name, unless `name` is one of `names`."""
    names = list(names)
    if name not in names:
        raise ConfigError(f"{name!r} is not a known {kind}: {_cli.nearest(str(name), names)}")


def _plain(value: Any) -> Any:
    return tuple(_plain(v) for v in value) if isinstance(value, list | tuple) else value

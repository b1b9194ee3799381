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

from configs import pretrain
from ctrain_jax import continual, core, fault, models, optim, peft, streams
from experiments import _cli, _sources, _weights


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
    for family in (continual, fault, peft)
    for name, factory in ((name, getattr(family, name)) for name in family.__all__)
    if inspect.isfunction(factory) and inspect.signature(factory).return_annotation is core.Method
}
ADAPTERS = ("lora", "prefix")
SCENARIOS = (
    "class_incremental",
    "corrupted",
    "domain_incremental",
    "drifting",
    "few_shot_class_incremental",
    "generalized_class_incremental",
    "permuted",
    "rotated",
    "scole",
    "si_blurry",
    "task_incremental",
)
ARRIVALS = ("joint", "cumulative", "power_law")
SOURCES = ("digits", "fashion_mnist", "hyperplane", "sea", "text", "tfds")
MODELS = ("CNN", "GPT", "MLP", "ResNet18", "TwoTower", "ViT")
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
OPTIONAL = ("online", "weights")  # a config of before has no such key


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
        known_name("key of config", key, (*TOP, *OPTIONAL, *METHODS, *ARRIVALS))
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
    online = config.get("online", False)
    if not isinstance(online, bool):
        raise ConfigError(f"config.online expects True or False, got {online!r}.")
    methods = config.methods
    if not isinstance(methods, list | tuple):
        raise ConfigError(f"config.methods expects a tuple of names, got {methods!r}: write ({methods!r},).")
    parts = []
    for name in methods:
        known_name("method", name, METHODS)
        parts.append(_method(name, config.get(name, {})))
    for key in config:
        if key in METHODS and key not in methods:
            raise ConfigError(f"config.{key} has no effect: add {key!r} to config.methods, got {tuple(methods)}.")
        if key in ARRIVALS and key != config.arrival:
            raise ConfigError(f"config.{key} has no effect: set config.arrival to {key!r}, got {config.arrival!r}.")
    stream = build_stream(config) if stream is None else stream
    method = core.chain(*parts)
    problem, width = _asked(config, stream, method)
    module = named(models, "model", config.model, MODELS, num_classes=width)
    optimizer = named(OPTIMIZERS, "optimizer", config.optimizer, vars(OPTIMIZERS))
    refused("config.optimizer", jax.eval_shape, lambda x: optimizer.update(x, optimizer.init(x), x), jnp.zeros(1))
    options = {"batch_size": config.batch_size, "epochs": config.epochs, "steps": config.steps, "mesh": mesh}
    options |= {"skip_nonfinite": skip_nonfinite, "rules": rules, "online": online, "problem": problem}
    model, weights = core.from_linen(module), config.get("weights")
    if weights is not None and not isinstance(weights, str):
        raise ConfigError(f"config.weights expects a file, or the name of a backbone, got {weights!r}.")
    trained = None if weights is None else refused("config.weights", lambda: core.load_tensors(_weights.file(weights)))
    learner = refused("config", core.make_learner, model, method, optimizer, stream, **options)
    if trained is not None:
        new_head = weights in pretrain.BACKBONES
        learner = refused(f"config.weights {weights}", _weights.started, learner, model, trained, new_head)
    if online and any(n > -(-int(size) // config.batch_size) for n, size in _passes(learner)):
        raise ConfigError(
            "config.online predicts each row before it is learned, which is so in the first pass alone: set "
            "config.epochs=1, or fewer config.steps."
        )
    if problem is not None or not stream.labels:
        # What only some methods can do is told before the run, and not in the middle of it.
        refused(f"config.methods {tuple(methods)} on {stream.name}", traced, learner)
    return learner


def _method(name: str, section: Any) -> core.Method:
    """A method; where it asks for a transform of the model, its section has one for that, with a name."""
    kinds = {key: p.annotation for key, p in inspect.signature(METHODS[name]).parameters.items()}
    asked = [key for key, kind in kinds.items() if kind is core.ModelTransform]
    if not asked or not isinstance(section, Mapping | ml_collections.ConfigDict):
        return call(METHODS[name], f"config.{name}", section)
    given = {key: named(peft, f"{name}.{key}", section.get(key), ADAPTERS) for key in asked}
    return call(METHODS[name], f"config.{name}", {k: v for k, v in section.items() if k not in asked}, **given)


def build_source(config: ml_collections.ConfigDict) -> core.Source:
    """The data that a config describes; of the classes in `config.source.classes`, where that is given."""
    package = types.SimpleNamespace(**{name: getattr(streams, name) for name in SOURCES} | {"text": _sources.text})
    section, classes = config.source, None
    if isinstance(section, Mapping | ml_collections.ConfigDict):
        section = dict(section.items())
        classes = section.pop("classes", None)
    source = named(package, "source", section, SOURCES, rename={"dataset": "name"})
    return source if classes is None else refused("config.source.classes", streams.only_classes, source, classes)


def decoder(config: ml_collections.ConfigDict) -> Callable[[Any], bytes] | None:
    """From tokens to bytes, where the source of a config is text of more than bytes."""
    if config.source.name != "text":
        return None
    tokenizer = refused("config.source", _sources.tokens_of, **{k: v for k, v in config.source.items() if k != "name"})
    return None if tokenizer is None else tokenizer.decode


def build_stream(config: ml_collections.ConfigDict, source: core.Source | None = None) -> core.Stream:
    """The stream that a config describes, over the `source` of `build_source` where that was read before."""
    section = config.scenario
    options = dict(section.items()) if isinstance(section, Mapping | ml_collections.ConfigDict) else section
    name = options.get("name") if isinstance(options, dict) else None
    if name == "drifting":
        given: dict[str, Any] = {"concepts": _concepts(config, options.pop("concepts", None))}
    else:
        given = {"source": build_source(config) if source is None else source}
    labels = options.pop("labels", False) if name == "corrupted" else False
    if not isinstance(labels, bool):
        raise ConfigError(f"config.scenario.labels expects True or False, got {labels!r}.")
    stream = named(streams, "scenario", options, SCENARIOS, **given)
    if labels:
        stream = stream._replace(labels=True)
    arrival = config.arrival
    known_name("value of config.arrival", arrival, ("incremental", *ARRIVALS))
    if arrival == "incremental":
        return stream
    return call(getattr(streams, arrival), f"config.{arrival}", config.get(arrival, {}), stream=stream)


def _concepts(config: ml_collections.ConfigDict, changes: Any) -> list[core.Source]:
    """The sources of a drift: that of the config, with other values of some of its keys."""
    columns = dict(changes.items()) if isinstance(changes, Mapping | ml_collections.ConfigDict) else {}
    lengths = {len(values) if isinstance(values, list | tuple) else 0 for values in columns.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ConfigError(
            "config.scenario.concepts expects keys of config.source and for each a tuple with a value for each "
            f"concept, as in {{'concept': (0, 3)}} of sea, got {changes!r}."
        )
    concepts = []
    for values in zip(*columns.values(), strict=True):
        changed = ml_collections.ConfigDict({"source": config.source.to_dict()})
        changed.source.update(dict(zip(columns, values, strict=True)))
        concepts.append(build_source(changed))
    return concepts


def _asked(
    config: ml_collections.ConfigDict, stream: core.Stream, method: core.Method
) -> tuple[core.Problem | None, int]:
    """What is asked of a row, None for its class, and among how many answers."""
    source, section = stream.source, config.model
    model = section.get("name") if isinstance(section, Mapping | ml_collections.ConfigDict) else None
    tokens = source.train["inputs"].dtype.kind == "i"
    if source.train["labels"].dtype.kind == "f":
        raise ConfigError(
            f"config: {source.name} asks for numbers, and a run is told in accuracy: train on it with "
            "core.make_learner, which gives the squared error."
        )
    if tokens != (model == "GPT"):
        raise ConfigError(
            f"config.model GPT answers which token comes next, and no other model reads tokens, got {model} for the "
            f"source {source.name}: use GPT with the source text."
        )
    usual = core.classification()
    if not stream.labels and method.problem(usual) is usual:
        raise ConfigError(
            f"config: {stream.name} hides labels, and none of the methods {tuple(config.methods)} learns without: "
            "draw it with experiments.data, or give labels to the learner by config.scenario.labels=True."
        )
    return (
        (core.next_token(), config.source.get("vocabulary", _sources.TOKENS)) if tokens else (None, source.num_classes)
    )


def _passes(learner: core.Learner) -> Iterable[tuple[int, Any]]:
    return zip(learner.spec.steps, learner.stream.experiences["train"].size, strict=True)


def traced(learner: core.Learner) -> None:
    """Every hook of a learner, without computing anything."""
    state = jax.eval_shape(learner.init, jax.random.key(0))
    data, place = jax.eval_shape(lambda: core.to_device(learner.stream)), jax.ShapeDtypeStruct((), jnp.int32)
    for hook in (learner.begin, learner.end, learner.evaluate):
        jax.eval_shape(hook, state, data, place)
    jax.eval_shape(learner.step, state, data, place, place)


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

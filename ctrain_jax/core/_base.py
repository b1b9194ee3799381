"""The nouns: small tuples of arrays and of pure functions.

Everything that a learner, a stream or a model is made of is defined here and nowhere else. Arrays that are stacked
over experiences carry a leading axis `T`; `B` is a batch, `C` the width of the classification head.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

PyTree = Any
Batch = dict[str, Any]
"""A flat dict of `[B, ...]` fields: `inputs, labels, weights, task, row, experience`, optional `classes` `[B, C]`
(the classes that a row may be told apart from) and `targets`. Rows of weight 0 are padding."""


class Outputs(NamedTuple):
    """What a model answers."""

    logits: jax.Array  # [B, C], or [B, ...] for other problems
    features: jax.Array | None = None  # [B, D], the input of the last layer
    aux: PyTree = None


class Variables(NamedTuple):
    """What a model is made of, by who writes it."""

    params: PyTree  # differentiated and trained
    model_state: PyTree = ()  # written by the forward pass (BatchNorm statistics)
    frozen: PyTree = ()  # neither: the base of an adapter, fixed masks


class Model(NamedTuple):
    """A pair of pure functions.

    `init(rng, inputs) -> Variables`;
    `apply(variables, inputs, *, train=False, rng=None, task=None) -> (Outputs, model_state)`, where `task` is int32
    `[B]`, a scalar, or None.
    """

    init: Callable[..., Variables]
    apply: Callable[..., tuple[Outputs, PyTree]]


ModelTransform = Callable[[Model], Model]
"""What changes how parameters are made or used: an adapter, say."""


class Problem(NamedTuple):
    """What is to be learned. The step minimises `sum(weights * loss) / max(sum(weights), 1)`.

    `loss(outputs, batch) -> [B]`; `metrics(outputs, batch) -> {name: [B]}`.
    """

    loss: Callable[[Outputs, Batch], jax.Array]
    metrics: Callable[[Outputs, Batch], dict[str, jax.Array]]


class Experience(NamedTuple):
    """One piece of a stream: which rows of the source arrive, and what is known of them. Stacked: `[T, ...]`."""

    # Nobody looks for a value in an experience, as tuple.index would.
    index: jax.Array  # int32 []  # pyright: ignore[reportIncompatibleMethodOverride]
    rows: jax.Array  # int32 [max_rows], row numbers of the source; beyond `size` they repeat real rows
    origin: jax.Array  # int32 [max_rows], the row's place in `Origins`
    size: jax.Array  # int32 [], number of rows, at least 1
    classes: jax.Array  # bool [C], classes of this experience
    seen: jax.Array  # bool [C], classes of this experience and of all before it
    task: jax.Array  # int32 []


class Origins(NamedTuple):
    """What a row inherits from the part of the stream that it was drawn from. Stacked: `[O, ...]`.

    In an ordinary stream there is one origin for each experience; a joint stream has one experience of many origins.
    """

    task: jax.Array  # int32 [O]
    classes: jax.Array  # bool [O, C]
    view: PyTree = ()  # parameters of the view of these rows (a permutation, an angle), leaves [O, ...]


class Data(NamedTuple):
    """The arrays of a stream. They are arguments of every compiled function, never constants in one."""

    source: dict[str, dict[str, jax.Array]]  # {"train" | "test": {"inputs": [N, ...], "labels": [N]}}
    experiences: dict[str, Experience]  # {"train" | "valid" | "test": stacked}; "valid" holds rows of source["train"]
    origins: Origins


class Source(NamedTuple):
    """A data set at rest: arrays, and how its inputs become floats.

    `train` and `test` map `inputs` to `[N, ...]` (uint8 images, floats, tokens) and `labels` to int32 `[N]` (or float
    targets). uint8 inputs are divided by 255 when a batch is fetched; then `(x - mean) / std` where these are given.
    """

    name: str
    train: dict[str, Any]
    test: dict[str, Any]
    num_classes: int
    mean: Any = None
    std: Any = None


class Stream(NamedTuple):
    """What arrives, in which order, over which data."""

    name: str
    source: Source
    experiences: dict[str, Experience]  # numpy leaves, stacked over T ("test", "valid": over their own T)
    origins: Origins
    view_fn: Callable[[jax.Array, PyTree], jax.Array] | None = None  # (one input in [0, 1], its view) -> input
    heads: str = "all"  # classes a row is told apart from: "all", "seen" so far, or its "task"'s own
    task_known: bool = False  # the task of a row is given when it is predicted
    labels: bool = True  # False: hidden from the learner, kept for the score
    boundaries: bool = True  # False: a method is told nothing of experiences, neither where they begin nor which it is


@dataclasses.dataclass(frozen=True)
class Spec:
    """Every static fact of a run, complete before anything is traced."""

    num_experiences: int
    num_classes: int
    max_rows: int  # of the largest experience
    batch_size: int
    steps: tuple[int, ...]  # of each experience
    labels: bool
    task_known: bool
    heads: str
    batch: Mapping[str, jax.ShapeDtypeStruct]  # fields of a fetched batch, [batch_size, ...]
    record: Mapping[str, jax.ShapeDtypeStruct]  # what a buffer stores for one row
    outputs: Outputs  # of the wrapped model, leaves ShapeDtypeStruct of [batch_size, ...]


class TrainState(NamedTuple):
    """All of a run: save this and nothing is lost."""

    step: jax.Array  # int32 [], steps taken over all experiences
    params: PyTree
    model_state: PyTree
    frozen: PyTree
    opt_state: PyTree
    method_state: dict[str, PyTree]  # {method name: its state}
    rng: jax.Array  # the run's key, never advanced

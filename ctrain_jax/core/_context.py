"""The one way into a hook: what a method may know at this moment, and a sentence for what it may not."""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import jax

from ctrain_jax.core._base import Batch, Experience, Model, Outputs, Problem, PyTree, Spec, Variables

ABSENT: Any = object()

_WHERE = {
    "experience": "begin, end, the hooks of a step and predict, on streams with boundaries",
    "fetch": "begin, end, the hooks of a step and predict",
    "scan": "begin and end",
    "incoming": "augment, loss, optimizer and update",
    "batch": "loss, optimizer, update and predict (augment takes it as an argument)",
    "outputs": "loss, optimizer, update and predict",
    "aux": "optimizer and update",
    "value": "optimizer and update",
    "grads": "optimizer and update",
    "value_fn": "augment, optimizer and update",
    "grad_fn": "augment, optimizer and update",
    "method_states": "optimizer",
}


@dataclasses.dataclass(frozen=True)
class Context:
    """What a hook of a method sees besides its own state.

    Always: `model`, `problem`, `spec`, `optimizer` (static, wrapped by the methods), `params`, `model_state`,
    `frozen`, `rng`, `forward`, and the method's own `name`. The other fields exist in some hooks only; reading one
    elsewhere raises an AttributeError that says where it exists.
    """

    hook: str
    name: str  # of the method's slot: "er", "er_1"
    key: jax.Array  # of the step or the edge; hooks use `rng`
    model: Model
    problem: Problem
    spec: Spec
    optimizer: Any  # optax.GradientTransformationExtraArgs; `.init(params)` resets it
    params: PyTree  # before the update; in begin and end with the edits of earlier methods, like the next two
    model_state: PyTree
    frozen: PyTree
    experience: Experience = ABSENT  # the one that is being learned (predict: the last one learned)
    fetch: Callable[..., Batch] = ABSENT  # fetch(record) -> batch
    scan: Callable[..., Any] = ABSENT  # scan(fn(carry, batch, index) -> carry, carry, size=spec.batch_size) -> carry
    incoming: Batch = ABSENT  # the untouched batch
    batch: Batch = ABSENT  # after every augment
    outputs: Outputs = ABSENT  # of the batch, before the update
    aux: dict[str, PyTree] = ABSENT  # {method name: what its loss returned besides the scalar}
    value: jax.Array = ABSENT  # problem loss + every added loss
    grads: PyTree = ABSENT  # gradient of `value`: unclipped, unprojected
    value_fn: Callable[..., jax.Array] = ABSENT  # value_fn(params, *, batch=None, rng=None, penalties=True)
    grad_fn: Callable[..., PyTree] = ABSENT  # the gradient of the same
    method_states: dict[str, PyTree] = ABSENT

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if value is ABSENT:
            raise AttributeError(
                f"ctx.{name} exists in {_WHERE[name]}, not in {object.__getattribute__(self, 'hook')}."
            )
        return value

    @property
    def rng(self) -> jax.Array:
        """A key of this method, hook, experience and step: folded by name, never by position in a chain."""
        return tag(tag(self.key, self.name), self.hook)

    def replace(self, **changes: Any) -> "Context":
        """A copy with some fields changed."""
        return Context(**{**object.__getattribute__(self, "__dict__"), **changes})

    def forward(
        self,
        params: PyTree,
        inputs: jax.Array,
        *,
        model_state: PyTree = None,
        train: bool = False,
        rng: jax.Array | None = None,
        task: jax.Array | None = None,
    ) -> tuple[Outputs, PyTree]:
        """The model at `params`, with this moment's model_state unless another is given."""
        state = self.model_state if model_state is None else model_state
        variables = Variables(params, state, self.frozen)
        return self.model.apply(variables, inputs, train=train, rng=rng, task=task)


def tag(key: jax.Array, name: str) -> jax.Array:
    """A key for a name: two names never share random numbers, and a new name moves no other."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)

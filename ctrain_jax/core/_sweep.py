"""Every combination of some values and seeds, as one program."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.core._base import Data, PyTree

_SHARE = 0.9  # of the free memory of a device that a program may plan with


class Sweep(NamedTuple):
    """What a sweep leaves behind."""

    axes: dict[str, tuple[Any, ...]]  # {name: its values}, "seed" last: the leading axes of every array of `result`
    result: PyTree

    def at(self, **values: Any) -> "Sweep":
        """The part of some values: `found.at(lam=10.0)` has no axis `lam` any more.

        Args:
          values: one for each axis that is to go.

        Returns:
          The sweep over the other axes.

        Raises:
          ValueError: an axis or a value that the sweep does not have.
        """
        for name, value in values.items():
            if name not in self.axes:
                raise ValueError(f"The sweep has the axes {', '.join(self.axes)}, got {name!r}.")
            if value not in self.axes[name]:
                raise ValueError(f"The sweep has {name} at {', '.join(map(str, self.axes[name]))}, got {value!r}.")
        place = tuple(self.axes[n].index(values[n]) if n in values else slice(None) for n in self.axes)
        left = {name: axis for name, axis in self.axes.items() if name not in values}
        return Sweep(left, jax.tree.map(lambda x: x[place], self.result))


def sweep(
    run: Callable[..., PyTree],
    data: Data,
    *,
    seeds: Sequence[int] = (0,),
    mesh: jax.sharding.Mesh | None = None,
    **values: Sequence[float],
) -> Sweep:
    """Run every combination of values with every seed, in one program.

    The same seed has the same random numbers at every value. On an accelerator the runs are one `vmap`, in as many
    parts as its memory asks for; on a CPU they come one after the other; over a mesh each device takes its share.

    Args:
      run: `(data, rng, **values) -> arrays`, a pure function that makes its learner from the values, such as
        `lambda data, rng, lam: core.run_fused(make(lam), data, rng).accuracy`. A value arrives as a traced scalar, so
        it can be what lives in a state (`lam`, a temperature, a learning rate), and nothing that decides a shape.
      data: from `to_device`.
      seeds: `rng` is `jax.random.key(seed)`, as in `run_stream`.
      mesh: devices, over whose axis `data` the runs are spread.
      values: {name: numbers}.

    Returns:
      The sweep: arrays of `run` with an axis for each name, and the last one for seeds, before their own.

    Raises:
      ValueError: an empty axis, one that is called `seed`, `rng` or `data`, or one with a value that is no number; a
        value that decides a shape or a branch of the program.

    Example:
      >>> import optax
      >>> from ctrain_jax import continual, core, models, streams
      >>> stream = streams.class_incremental(streams.digits(), 2)
      >>> def run(data, rng, lam):
      ...     model = core.from_linen(models.MLP(10, hidden=(8,)))
      ...     learner = core.make_learner(model, continual.ewc(lam), optax.sgd(0.1), stream, steps=5)
      ...     return core.run_fused(learner, data, rng).accuracy
      >>> found = core.sweep(run, core.to_device(stream), seeds=range(2), lam=[0.0, 1.0, 10.0])
      >>> found.result.shape, found.at(lam=1.0).result.shape
      ((3, 2, 2, 2), (2, 2, 2))
    """
    axes = {name: tuple(axis) for name, axis in values.items()} | {"seed": tuple(int(seed) for seed in seeds)}
    _check(axes, values)
    shape = tuple(map(len, axes.values()))
    number = math.prod(shape)
    devices = 1 if mesh is None else mesh.shape["data"]
    each = -(-number // devices)
    # Devices take equal shares: the last one repeats what it has done.
    places = np.unravel_index(np.minimum(np.arange(each * devices), number - 1), shape)
    points = {name: jnp.asarray(axis)[place] for (name, axis), place in zip(axes.items(), places, strict=True)}
    points["seed"] = jax.vmap(jax.random.key)(points["seed"])

    def one(data: Data, point: Mapping[str, jax.Array]) -> PyTree:
        return run(data, point["seed"], **{name: value for name, value in point.items() if name != "seed"})

    program = _compiled(one, data, points, each, mesh)
    flat = program(data, points)
    return Sweep(axes, jax.tree.map(lambda x: x[:number].reshape(shape + x.shape[1:]), flat))


def _check(axes: Mapping[str, tuple[Any, ...]], values: Mapping[str, Any]) -> None:
    for name, axis in axes.items():
        if not axis:
            raise ValueError(f"The axis {name} of a sweep expects at least one value, got none.")
    for name in values:
        if name in ("seed", "rng", "data"):
            raise ValueError(f"An axis of a sweep cannot be called {name!r}: seeds are given as seeds=range(5).")
        for value in axes[name]:
            if isinstance(value, bool) or not isinstance(value, int | float | np.number):
                raise ValueError(f"A sweep maps over numbers, got {name}={value!r}: make one sweep for each of these.")


def _compiled(
    one: Callable[..., PyTree],
    data: Data,
    points: Mapping[str, jax.Array],
    each: int,
    mesh: jax.sharding.Mesh | None,
) -> Callable[..., PyTree]:
    """The program of all points, with as many at once on a device as its memory takes."""
    at_once = 1 if jax.default_backend() == "cpu" else each
    while True:
        try:
            compiled = _program(one, at_once, mesh).lower(data, points).compile()
        except TypeError as error:
            if not isinstance(error, jax.errors.JAXTypeError) and "concrete value" not in str(error):
                raise
            raise ValueError(
                "A swept value decides a shape or a branch of the program: sweep what lives in a state (lam, a "
                "temperature, a learning rate), and make one sweep for each value of the others."
            ) from error
        needed, free = _needed_bytes(compiled), _free_bytes()
        if at_once == 1 or free is None or needed <= free:
            return compiled
        at_once = max(1, min(at_once - 1, int(at_once * free / needed)))


def _program(one: Callable[..., PyTree], at_once: int, mesh: jax.sharding.Mesh | None) -> Any:
    def share(data: Data, points: Mapping[str, jax.Array]) -> PyTree:
        own = functools.partial(one, data)
        if at_once == 1:
            return jax.lax.map(own, points)
        return jax.lax.map(own, points, batch_size=at_once)

    if mesh is None:
        return jax.jit(share)
    rows, everywhere = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
    return jax.jit(jax.shard_map(share, mesh=mesh, in_specs=(everywhere, rows), out_specs=rows, check_vma=False))


def _needed_bytes(compiled: Any) -> int:
    """Of the results and of what is between, on one device."""
    found = compiled.memory_analysis()
    return 0 if found is None else found.temp_size_in_bytes + found.output_size_in_bytes


def _free_bytes() -> int | None:
    """Of the first device; None where it does not say."""
    found = jax.local_devices()[0].memory_stats()
    if not found or "bytes_limit" not in found:
        return None
    return int(_SHARE * (found["bytes_limit"] - found["bytes_in_use"]))

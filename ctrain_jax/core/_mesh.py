"""Devices: which rows of a batch and which leaves of a state lie where. They change where a run is computed, not what.

The rows of every forward pass are spread over the axis `data` of a mesh; all else is on every device, unless a rule
spreads it. Nothing here is a collective: the compiler puts those where they are needed.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.core._base import Model, Outputs, PyTree, Variables
from ctrain_jax.core._leaves import key_name, named, on_devices

Rules = Sequence[tuple[str, jax.sharding.PartitionSpec]]


class Layout(NamedTuple):
    """Where the leaves of a state lie."""

    mesh: jax.sharding.Mesh
    rules: tuple[tuple[str, jax.sharding.PartitionSpec], ...] = ()

    def shardings(self, tree: PyTree, stacked: bool = False) -> PyTree:
        """The sharding of each leaf: of the first rule whose pattern is found in its path, or on every device."""
        found = [self._sharding(name, leaf, stacked) for name, leaf in named(tree).items()]
        return jax.tree.unflatten(jax.tree.structure(tree), found)

    def constrained(self, tree: PyTree) -> PyTree:
        """The tree inside a compiled function, where its leaves are to lie."""
        return jax.tree.map(jax.lax.with_sharding_constraint, tree, self.shardings(tree))

    def _sharding(self, name: str, leaf: Any, stacked: bool) -> jax.sharding.NamedSharding:
        spec = next((spec for pattern, spec in self.rules if re.search(pattern, name)), jax.sharding.PartitionSpec())
        shape = jnp.shape(leaf)[1:] if stacked else jnp.shape(leaf)
        if len(spec) > len(shape):
            spec = jax.sharding.PartitionSpec()  # a counter beside the moments of a kernel
        for size, axes in zip(shape, spec, strict=False):
            names = (axes,) if isinstance(axes, str) else axes or ()
            parts = math.prod(self.mesh.shape[axis] for axis in names)
            if size % parts:
                raise ValueError(
                    f"The rule {spec} spreads {name} of shape {shape} over {parts} devices, which do not divide "
                    f"{size}: write a narrower pattern, or a rule for this leaf before it."
                )
        return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec(*((None,) if stacked else ()), *spec))


def data_mesh(devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """Devices in a row, over which batches are spread.

    Args:
      devices: all of all hosts by default.

    Returns:
      A mesh with the axis `data`.

    Example:
      >>> dict(data_mesh(jax.devices()[:1]).shape)
      {'data': 1}
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)


def replicate(tree: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    """The tree with a copy of every leaf on each device of the mesh, also where the mesh spans several hosts."""
    return place(tree, Layout(mesh))


def place(tree: PyTree, layout: Layout, stacked: bool = False) -> PyTree:
    """The tree on the devices of a layout; `stacked` says that leaves have an axis of seeds before their own."""

    def put(leaf: Any, sharding: jax.sharding.NamedSharding) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        key = key_name(leaf)
        data = on_devices(np.asarray(jax.random.key_data(leaf) if key else leaf), sharding)
        return jax.jit(jax.random.wrap_key_data, static_argnames="impl")(data, impl=key) if key else data

    return jax.tree.map(put, tree, layout.shardings(tree, stacked))


def spread_rows(array: Any, mesh: jax.sharding.Mesh) -> jax.Array:
    """An array with its rows spread over the devices, filled up with its first ones; a host reads but its own."""
    count = len(array)
    whole = count + -count % mesh.shape["data"]
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))

    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(whole)
        own = np.asarray(array[start : min(stop, count)])
        more = np.asarray(array[: stop - max(start, count)]) if stop > count else own[:0]
        return np.concatenate([own, more])

    return jax.make_array_from_callback((whole, *array.shape[1:]), sharding, part)


def spread_model(model: Model, mesh: jax.sharding.Mesh) -> Model:
    """The model with the rows of each forward pass spread over the devices.

    A number of rows that the devices do not divide is filled up, and what is answered to these rows is dropped: nobody
    sees them but a model that keeps statistics of a batch, which is refused.
    """
    devices = mesh.shape["data"]
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))

    def apply(
        variables: Variables, inputs: jax.Array, *, train: bool = False, rng: Any = None, task: Any = None
    ) -> tuple[Outputs, PyTree]:
        count = inputs.shape[0]
        missing = -count % devices
        if missing and train and jax.tree.leaves(variables.model_state):
            raise ValueError(
                f"The model keeps statistics of a batch, and {count} rows do not spread over {devices} devices without "
                f"others among them: choose batch sizes that are multiples of {devices}, or fewer devices."
            )

        def spread(x: Any) -> Any:
            if jnp.ndim(x) == 0:
                return x
            return jax.lax.with_sharding_constraint(x[jnp.arange(count + missing) % count] if missing else x, rows)

        task = None if task is None else spread(task)
        outputs, state = model.apply(variables, spread(inputs), train=train, rng=rng, task=task)
        if missing:
            filled = count + missing
            outputs = jax.tree.map(lambda x: x[:count] if x.ndim and x.shape[0] == filled else x, outputs)
        return outputs, state

    return Model(model.init, apply)

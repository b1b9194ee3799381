"""ElasWave: a step that does not depend on how many workers take it.

Kang et al., "ElasWave: An Elastic-Native System for Scalable Hybrid-Parallel Training", 2025, arXiv 2510.00606. Opened
at the source: the abstract alone; no public code was found. Written from its two rules: the global batch and the scale
of its gradient stay, and random numbers belong to the sample, not to the rank.
Where we differ: this is the data-parallel half. Out of scope: rebalancing of pipeline stages, frequency scaling of the
chips that would idle, editing of communication groups. Redistributing optimizer shards is what the checkpoints and
shardings of `core` do; the state is replicated here, so that a worker that comes back needs the state of any other.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax.ops import check_size

_AXIS = "data"


class ElaswaveState(NamedTuple):
    """All of a run: the same on every worker."""

    step: jax.Array  # int32 [], steps taken
    params: optax.Params
    opt_state: optax.OptState
    rng: jax.Array  # the run's key, never advanced


class Elaswave(NamedTuple):
    """Pure functions over `ElaswaveState`."""

    init: Callable[..., ElaswaveState]  # (rng, params)
    step: Callable[..., tuple[ElaswaveState, jax.Array]]  # (state, batch, worker_sizes): the loss is the batch's mean
    num_workers: int
    num_micro: int  # micro-batches of a global batch: what `worker_sizes` add up to


def elaswave(
    loss_sum_fn: Callable[[optax.Params, Any, Callable[[Any], jax.Array]], jax.Array],
    tx: optax.GradientTransformation,
    global_batch: int,
    *,
    workers: int | jax.sharding.Mesh,
    micro_batch: int = 1,
) -> Elaswave:
    r"""A data-parallel step whose micro-batches may lie anywhere.

    Worker :math:`w` runs through the micro-batches :math:`S_w` that it was dealt, as many as `worker_sizes[w]` says and
    none where it is gone, and answers sums; the divisor is the size :math:`G` of the global batch:

    .. math:: g = \frac{1}{G} \sum_w \sum_{b \in S_w} \nabla_\theta \sum_{i \in b} \ell_i(\theta)

    So neither the gradient nor its scale depends on the split, but for the order of a sum. Every random number is a
    function of (rng, step, sample, layer) by `sample_key`. The sizes are an array: one program serves all splits.

    Args:
      loss_sum_fn: `(params, rows, keys) -> scalar`, the SUM of the losses of a micro-batch; `rows` is a slice of the
        batch, and `keys(layer)` gives a key `[micro_batch]` for each row: `jax.vmap` over it.
      tx: any optax transform.
      global_batch: rows of a batch, over all workers; never changes.
      workers: a mesh, whose devices along its axis `data` are the workers; or how many of them one device plays.
      micro_batch: rows of a micro-batch, which is never torn apart: rows may even see each other in it.

    Returns:
      `init(rng, params) -> state`, and `step(state, batch, worker_sizes) -> (state, loss)`: leaves of the batch are
      `[global_batch, ...]`, the same on every worker; `worker_sizes` is int32 `[num_workers]`, in micro-batches.

    Raises:
      ValueError: a size below 1, micro-batches that do not fill the batch, a mesh without an axis `data`; in `step`, a
        batch of another size, or sizes that do not deal each micro-batch once (unseen where they are traced).

    Example:
      >>> elastic = elaswave(lambda params, x, keys: jnp.sum((params - x) ** 2), optax.sgd(0.1), 4, workers=2)
      >>> state, batch = elastic.init(jax.random.key(0), jnp.zeros(())), jnp.arange(4.0)
      >>> [float(elastic.step(state, batch, jnp.array(sizes))[1]) for sizes in ([2, 2], [3, 1], [4, 0])]
      [3.5, 3.5, 3.5]
    """
    check_size("global_batch", global_batch)
    check_size("micro_batch", micro_batch)
    mesh = None if isinstance(workers, int) else workers
    if mesh is not None and _AXIS not in getattr(mesh, "shape", ()):
        raise ValueError(f"workers expects a number, or a mesh with an axis {_AXIS!r}, got {mesh!r}: name the axis so.")
    num_workers = workers if isinstance(workers, int) else workers.shape[_AXIS]
    check_size("workers", num_workers)
    if global_batch % micro_batch:
        raise ValueError(
            f"global_batch must be a multiple of micro_batch={micro_batch}, got {global_batch}: change one of them."
        )
    num_micro = global_batch // micro_batch

    def worker(params, batch, sizes, rng, step):
        rank = jax.lax.axis_index(_AXIS)
        first = jnp.cumsum(sizes)[rank] - sizes[rank]

        def add(i, sums):
            start = (first + i) * micro_batch
            rows = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, micro_batch), batch)

            def keys(layer):
                return sample_key(rng, step, start + jnp.arange(micro_batch), layer)

            return jax.tree.map(jnp.add, sums, jax.value_and_grad(loss_sum_fn)(params, rows, keys))

        nothing = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
        return jax.lax.psum(jax.lax.fori_loop(0, sizes[rank], add, nothing), _AXIS)

    if mesh is None:
        together = jax.vmap(worker, in_axes=None, out_axes=None, axis_name=_AXIS, axis_size=num_workers)
    else:
        # Checked, the gradient of replicated params would be a sum over workers inside of loops of unequal length.
        nowhere = jax.sharding.PartitionSpec()
        together = jax.shard_map(worker, mesh=mesh, in_specs=nowhere, out_specs=nowhere, check_vma=False)

    def init(rng, params):
        return ElaswaveState(jnp.int32(0), params, tx.init(params), rng)

    def step(state, batch, worker_sizes):
        wrong = {jnp.shape(x)[:1] for x in jax.tree.leaves(batch)} - {(global_batch,)}
        if wrong:
            raise ValueError(
                f"The batch expects leaves of global_batch={global_batch} rows, got {sorted(wrong)}: the global batch "
                "never changes, only who computes it."
            )
        _check_sizes(worker_sizes, num_workers, num_micro)
        sums = together(state.params, batch, jnp.asarray(worker_sizes, jnp.int32), state.rng, state.step)
        loss, grads = jax.tree.map(lambda x: x / global_batch, sums)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return ElaswaveState(state.step + 1, params, opt_state, state.rng), loss

    return Elaswave(init, step, num_workers, num_micro)


def sample_key(key: jax.Array, step: Any, sample_id: Any, layer: Any) -> jax.Array:
    """A key for what is random about a sample: it moves with the sample, whichever worker computes it.

    `elaswave` makes the keys of its loss with it; call it for what is random outside, as augmentation in a loader.

    Args:
      key: of the run.
      step: int32 scalar.
      sample_id: place in the global batch, int32 of any shape.
      layer: int32 scalar, any number that tells one use from another.

    Returns:
      Keys of the shape of `sample_id`.

    Raises:
      TypeError: a step, a place or a layer that is no integer.

    Example:
      >>> keys = sample_key(jax.random.key(0), 3, jnp.arange(4), layer=1)
      >>> keys.shape, bool(keys[2] == sample_key(jax.random.key(0), 3, 2, layer=1))
      ((4,), True)
    """
    for name, value in (("step", step), ("sample_id", sample_id), ("layer", layer)):
        if not jnp.issubdtype(jnp.asarray(value).dtype, jnp.integer):
            raise TypeError(f"{name} expects integers, got {jnp.asarray(value).dtype}: count in whole numbers.")
    of_layer = jax.random.fold_in(jax.random.fold_in(key, step), layer)
    places = jnp.asarray(sample_id)
    return jax.vmap(jax.random.fold_in, (None, 0))(of_layer, places.reshape(-1)).reshape(places.shape)


def simulate(
    elastic: Elaswave, state: ElaswaveState, batch_fn: Callable[[jax.Array], Any], alive: Any
) -> tuple[ElaswaveState, jax.Array]:
    """Steps through a schedule of workers that fail and come back.

    At each step the micro-batches are dealt as evenly as they go to the workers that are alive, those of lower rank
    first. Nothing is lost with a worker: its share of the step is computed by the others.

    Args:
      elastic: from `elaswave`.
      state: from `elastic.init`.
      batch_fn: `(step) -> batch`, pure: which rows a step sees is a function of its number as well.
      alive: bool `[steps, num_workers]`, who takes part in which step.

    Returns:
      The state after the last step, and the losses `[steps]`.

    Raises:
      ValueError: a schedule of another shape, or a step that no worker is alive for (unseen where it is traced).

    Example:
      >>> elastic = elaswave(lambda params, x, keys: jnp.sum((params - x) ** 2), optax.sgd(0.1), 4, workers=2)
      >>> state = elastic.init(jax.random.key(0), jnp.zeros(()))
      >>> losses = simulate(elastic, state, lambda step: jnp.ones(4), [[True, True], [True, False], [True, True]])[1]
      >>> [round(float(loss), 3) for loss in losses]
      [1.0, 0.64, 0.41]
    """
    shape = np.shape(alive)
    if len(shape) != 2 or shape[1] != elastic.num_workers:
        raise ValueError(
            f"alive expects [steps, num_workers={elastic.num_workers}], got shape {shape}: give a row of bools for "
            "each step."
        )
    if not isinstance(alive, jax.core.Tracer) and not np.all(np.any(alive, axis=1)):
        step = int(np.argmin(np.any(alive, axis=1)))
        raise ValueError(f"alive expects at least one worker in each step, got none in step {step}: leave one alive.")

    def body(state, alive):
        return elastic.step(state, batch_fn(state.step), _deal(elastic.num_micro, alive))

    return jax.lax.scan(body, state, jnp.asarray(alive, bool))


def _deal(num_micro: int, alive: jax.Array) -> jax.Array:
    """Micro-batches for each worker `[W]`: as even as they go, none for the dead."""
    each, over = jnp.divmod(num_micro, alive.sum())
    place = jnp.cumsum(alive) - 1
    return jnp.where(alive, each + (place < over), 0).astype(jnp.int32)


def _check_sizes(sizes: Any, num_workers: int, num_micro: int) -> None:
    if np.shape(sizes) != (num_workers,):
        raise ValueError(f"worker_sizes expects shape ({num_workers},), got {np.shape(sizes)}: one for each worker.")
    if isinstance(sizes, jax.core.Tracer):
        return
    given = np.asarray(sizes)
    if given.dtype.kind not in "iu" or given.min() < 0 or given.sum() != num_micro:
        raise ValueError(
            f"worker_sizes expects whole numbers that add up to {num_micro} micro-batches, got {given.tolist()}: deal "
            "each of them once."
        )

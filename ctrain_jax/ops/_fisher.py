"""Sums over examples of the square, or of the absolute value, of each example's own gradient.

    F_j = sum_n w_n E_{y ~ p(. | x_n)} (d log p(y | x_n) / d theta_j)^2       the diagonal of the Fisher information
    A_j = sum_n w_n |d o(f(x_n)) / d theta_j|                                 for a function o of an example's outputs

The square is inside the sum: the squared gradient of a batch's mean loss, often taken in its place, is another number
(Kunstner et al. 2019; Martens 2020). Per-example gradients are never stored for a linear layer without weight sharing:
the gradient of `y = x W` is `x_i g_o`, and its square summed over examples is the product `(x^2)^T g^2` (Goodfellow
2015); its absolute value, `|x|^T |g|`.

How: `forward` is traced, not called on tracers of ours, so any model will do. An *entry* is an operation at which
something computed from parameters alone meets the examples: a product, a convolution, an addition of a bias. Zeros
added to the results of the entries, "taps", are all that is differentiated: one forward pass and one backward pass to
the activations. What parameters alone compute (a masked, merged or reshaped kernel) is differentiated apart from the
network, and entries of the same parameter are added before their size is taken. A parameter that enters by another door
(an embedding look-up, inside `lax.scan`) costs a pass of `vmap(grad)` over the examples, for such parameters alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ctrain_jax.ops._checks import check_choice, check_positive
from ctrain_jax.ops._entries import Entry, Plan, chain_of, known_values, make_plan, padded, run


def fisher_diagonal(
    forward: Callable[[Any, Any], jax.Array],
    params: Any,
    inputs: Any,
    rng: jax.Array,
    *,
    labels: jax.Array | None = None,
    weights: jax.Array | None = None,
    mode: str = "sampled",
    class_mask: jax.Array | None = None,
    chunk: int = 16,
) -> Any:
    """Sums the diagonal of the Fisher information over the examples of a batch.

    `"exact"` takes the expectation over all `C` classes, `"sampled"` draws one label from the model for each example
    (unbiased), `"predicted"` takes the most probable label and `"empirical"` uses `labels` (neither is a Fisher
    information, but both are often called so). For a perceptron the first costs `C` and the others one pass of about
    three forward passes.

    Args:
        forward: `(params, inputs) -> logits [B, C]`, for any `B`; deterministic, and row `n` of the result depends on
            row `n` of `inputs` alone (BatchNorm in evaluation mode). It is traced twice.
        params: pytree of floats.
        inputs: pytree of `[B, ...]`.
        rng: a key; `"sampled"` draws the labels as `jax.random.categorical(rng, logits)`.
        labels: int `[B]`, read by `"empirical"` alone.
        weights: `[B]`, a factor for each example; 0 for padding. Default 1.
        mode: `"sampled"`, `"predicted"`, `"empirical"` or `"exact"`.
        class_mask: bool `[B, C]` or `[C]`, the classes that the softmax runs over. Default all.
        chunk: examples whose gradients are held at once, where they have to be: memory is `chunk` times the size of
            the parameters that are shared over positions or reach the network indirectly.

    Returns:
        A pytree like `params`, at least float32: divide by the sum of the weights for a mean.

    Raises:
        ValueError: an unknown mode, `"empirical"` without labels, or logits that are not `[B, C]`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> inputs = jnp.array([[1.0], [2.0]])
        >>> fisher_diagonal(lambda p, x: x @ p, jnp.zeros((1, 2)), inputs, jax.random.key(0), mode="exact")
        Array([[1.25, 1.25]], dtype=float32)

    References:
        Goodfellow 2015, arXiv 1510.01799; Kunstner, Balles and Hennig 2019, arXiv 1905.12558; Martens 2020, arXiv
        1412.1193 (cited for the definitions; written from the equations, the papers were not opened).
    """
    check_choice("mode", mode, ("sampled", "predicted", "empirical", "exact"))
    check_positive("chunk", chunk)
    if mode == "empirical" and labels is None:
        raise ValueError('mode="empirical" needs labels [B], got None: pass labels=, or choose "sampled" or "exact".')

    def describe(logits: jax.Array) -> tuple:
        scores = _wide(logits)
        if class_mask is not None:
            scores = jnp.where(class_mask, scores, jnp.finfo(scores.dtype).min)
        probs = jax.nn.softmax(scores)
        if mode == "exact":
            return (probs,)
        if mode == "predicted":
            return probs, jnp.argmax(scores, axis=-1)
        return probs, labels if mode == "empirical" else jax.random.categorical(rng, scores)

    return _sum_examples(forward, params, inputs, describe, _expectation, jnp.square, weights, chunk)


def absolute_gradients(
    forward: Callable[[Any, Any], jax.Array],
    params: Any,
    inputs: Any,
    objective: Callable[[jax.Array], jax.Array],
    *,
    weights: jax.Array | None = None,
    chunk: int = 16,
) -> Any:
    """Sums the absolute gradients of the examples of a batch: how much each parameter moves the outputs.

    Not the absolute gradient of the batch's mean, in which examples that pull in opposite directions cancel.

    Args:
        forward: as in `fisher_diagonal`.
        params: pytree of floats.
        inputs: pytree of `[B, ...]`.
        objective: `outputs [B, C] -> [B]`, a number for each example, of its own outputs alone.
        weights: `[B]`, a factor for each example, 0 or above; 0 for padding. Default 1.
        chunk: as in `fisher_diagonal`.

    Returns:
        A pytree like `params`, at least float32: divide by the sum of the weights for a mean.

    Raises:
        ValueError: outputs that are not `[B, C]`.

    Example:
        >>> import jax.numpy as jnp
        >>> inputs = jnp.array([[1.0], [-2.0]])
        >>> absolute_gradients(lambda p, x: x @ p, jnp.ones((1, 1)), inputs, lambda outputs: outputs.sum(1))
        Array([[3.]], dtype=float32)
    """
    check_positive("chunk", chunk)

    def describe(outputs: jax.Array) -> tuple[jax.Array]:
        return (jax.grad(lambda outputs: jnp.sum(objective(outputs)))(_wide(outputs)),)

    def over(of: Callable[[jax.Array, jax.Array], Any], slope: jax.Array) -> Any:
        return of(slope, jnp.ones(slope.shape[:-1]))

    return _sum_examples(forward, params, inputs, describe, over, jnp.abs, weights, chunk)


def _sum_examples(
    forward: Callable[[Any, Any], jax.Array],
    params: Any,
    inputs: Any,
    describe: Callable[[jax.Array], tuple],
    over: Callable[..., Any],
    size: Callable[[jax.Array], jax.Array],
    weights: jax.Array | None,
    chunk: int,
) -> Any:
    """Sums `size(gradient)` over examples.

    `describe(outputs)` is what is known of each row of the outputs; `over(of, *rows)` is the sum of `of(slope of the
    objective by the outputs, factor)` over all that an example asks for. `size(x y) = size(x) size(y)`.
    """
    leaves, treedef = jax.tree.flatten(params)
    batch = jax.tree.leaves(inputs)[0].shape[0]
    plan = make_plan(forward, params, inputs, batch)

    known = known_values(plan, leaves)
    run(plan, plan.static, known, {})
    taps = {k: jnp.zeros(entry.tap.shape, entry.tap.dtype) for k, entry in plan.entries.items()}

    def tapped(taps):
        values = known | dict(zip(plan.program.inputs, jax.tree.leaves(inputs), strict=True))
        read = run(plan, plan.dynamic, values, taps)
        return values[plan.program.logits], read

    logits, backward, read = jax.vjp(tapped, taps, has_aux=True)
    known_of_rows = describe(logits)
    weights = jnp.ones((batch,)) if weights is None else jnp.asarray(weights, jnp.float32)

    held = {k: read[k] for k in plan.shared if k in read}
    upstream = [leaves[i] for i in plan.indirect]
    indirect = jax.vjp(lambda upstream: _upstream(plan, leaves, upstream), upstream)[1]

    def of(score: jax.Array, factor: jax.Array) -> tuple[dict[int, jax.Array], list[jax.Array]]:
        (slopes,) = backward(score.astype(logits.dtype))
        factor = factor * weights
        direct = {k: _rows(factor, slopes[k]) * size(_wide(slopes[k])) for k in plan.direct.values()}
        if not upstream:
            return direct, []

        def example(row, factor):
            inputs, slopes = row
            at_entry = {k: _pull(plan.entries[k], inputs.get(k), slopes[k]) for k in plan.shared}
            return [factor * size(_wide(grad)) for grad in indirect(at_entry)[0]]

        return direct, _sum_rows(example, (held, {k: slopes[k] for k in plan.shared}), factor, chunk)

    direct, shared = over(of, *known_of_rows)
    sums: list[Any] = [jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in leaves]
    for i, k in plan.direct.items():
        rows = size(_wide(read[k])) if k in read else None
        sums[i] = _product(plan, i, k, rows, direct[k], sums[i])
    for i, total in zip(plan.indirect, shared, strict=True):
        sums[i] = total
    if plan.others:

        def of_others(others: Sequence[jax.Array], inputs: Any) -> jax.Array:
            return forward(treedef.unflatten(_replaced(leaves, plan.others, others)), inputs)

        rows = (inputs, *known_of_rows)
        totals = _second_pass(of_others, [leaves[i] for i in plan.others], rows, over, size, weights, chunk)
        for i, total in zip(plan.others, totals, strict=True):
            sums[i] = total
    return treedef.unflatten(sums)


def _second_pass(
    forward: Callable[[Any, Any], jax.Array],
    leaves: Sequence[jax.Array],
    rows: Any,
    over: Callable[..., Any],
    size: Callable[[jax.Array], jax.Array],
    weights: jax.Array,
    chunk: int,
) -> list[jax.Array]:
    """The same sums by `vmap(grad)`; `rows` are the inputs, and what is known of the outputs."""

    def example(row: Any, weight: jax.Array) -> list[jax.Array]:
        inputs, *known = row
        outputs, pull = jax.vjp(lambda leaves: forward(leaves, jax.tree.map(lambda x: x[None], inputs))[0], leaves)

        def of(score: jax.Array, factor: jax.Array) -> list[jax.Array]:
            return [weight * factor * size(_wide(grad)) for grad in pull(score.astype(outputs.dtype))[0]]

        return over(of, *known)

    return _sum_rows(example, rows, weights, chunk)


def _meet(entry: Entry, value: jax.Array, rows: jax.Array | None, num: int) -> jax.Array:
    """What is tapped, as a linear function of the value, for `num` examples."""
    params = dict(entry.equation.params)
    if entry.on_operand:
        return jnp.broadcast_to(padded(value, entry), (num, *entry.tap.shape[1:]))
    if rows is None:
        return jax.lax.broadcast_in_dim(value, (num, *entry.tap.shape[1:]), params["broadcast_dimensions"])
    params["preferred_element_type"] = None
    rows = rows.reshape(-1, *rows.shape[2:]) if entry.merged else rows
    return entry.equation.primitive.bind(rows, value, **params).reshape(num, *entry.tap.shape[1:])


def _pull(entry: Entry, row: jax.Array | None, slope: jax.Array) -> jax.Array:
    """The gradient of one example with respect to the value."""
    rows = None if row is None else _wide(row)[None]
    value = jax.ShapeDtypeStruct(entry.value.shape, jnp.promote_types(entry.value.dtype, jnp.float32))
    (grad,) = jax.linear_transpose(lambda value: _meet(entry, value, rows, 1), value)(_wide(slope)[None])
    return grad.astype(entry.value.dtype)


def _product(plan: Plan, leaf: int, k: int, rows: jax.Array | None, slopes: jax.Array, like: jax.Array) -> jax.Array:
    """Goodfellow's product: the layer is linear, so its transpose takes sizes of rows and slopes to their sum."""
    slot = plan.program.leaves[leaf]
    moves = [plan.program.equations[m] for m in chain_of(plan.program, slot)[:-1]]

    def enter(value: jax.Array) -> jax.Array:
        for move in moves:
            if move.primitive.name != "convert_element_type":
                value = move.primitive.bind(value, **move.params)
        return _meet(plan.entries[k], value, rows, slopes.shape[0])

    return jax.linear_transpose(enter, like)(slopes)[0]


def _upstream(plan: Plan, leaves: Sequence[jax.Array], upstream: Sequence[jax.Array]) -> dict[int, jax.Array]:
    """The values at the shared entries, as a function of the indirect leaves."""
    values = known_values(plan, _replaced(leaves, plan.indirect, upstream))
    run(plan, plan.static, values, {})
    return {k: values[plan.entries[k].equation.reads[plan.entries[k].position]] for k in plan.shared}


def _expectation(of: Callable[[jax.Array, jax.Array], Any], probs: jax.Array, labels: jax.Array | None = None) -> Any:
    """`of(gradient of log p(y) by the logits, probability)`, summed over the classes or for one label."""
    num_classes = probs.shape[-1]

    def of_label(label: jax.Array, factor: jax.Array) -> Any:
        return of(jax.nn.one_hot(label, num_classes) - probs, factor)

    if labels is not None:
        return of_label(labels, jnp.ones(probs.shape[:-1]))

    def add(total, label):
        return jax.tree.map(jnp.add, total, of_label(label, probs[..., label])), None

    shapes = jax.eval_shape(of_label, jnp.int32(0), probs[..., 0])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zeros, jnp.arange(num_classes))[0]


def _sum_rows(function: Callable[[Any, jax.Array], Any], rows: Any, factor: jax.Array, chunk: int) -> Any:
    """Sum over examples of `function(row, factor)`, `chunk` of them at a time; padding repeats a row with factor 0."""
    batch = factor.shape[0]
    chunk = min(chunk, batch)
    place = jnp.arange(-(-batch // chunk) * chunk).reshape(-1, chunk)

    def part(place: jax.Array) -> Any:
        at = jnp.minimum(place, batch - 1)
        taken = jax.tree.map(lambda x: x[at], rows)
        each = jax.vmap(function)(taken, jnp.where(place < batch, factor[at], 0))
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), each)

    if place.shape[0] == 1:
        return part(place[0])

    def add(total: Any, place: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, part(place)), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(part, place[0]))
    return jax.lax.scan(add, zeros, place)[0]


def _replaced(leaves: Sequence[jax.Array], at: Sequence[int], new: Sequence[jax.Array]) -> list[jax.Array]:
    replaced = list(leaves)
    for i, leaf in zip(at, new, strict=True):
        replaced[i] = leaf
    return replaced


def _rows(factor: jax.Array, like: jax.Array) -> jax.Array:
    return factor.reshape(-1, *(1,) * (like.ndim - 1))


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

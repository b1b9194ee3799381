"""The diagonal of the Fisher information, example by example.

    F_j = sum_n w_n E_{y ~ p(. | x_n)} (d log p(y | x_n) / d theta_j)^2

The square is inside the sum: the squared gradient of a batch's mean loss, often taken in its place, is another number
(Kunstner et al. 2019; Martens 2020). Per-example gradients are never stored for a linear layer without weight sharing:
the gradient of `y = x W` is `x_i g_o`, and its square summed over examples is the product `(x^2)^T g^2` (Goodfellow
2015).

How: `forward` is traced, not called on tracers of ours, so any model will do. An *entry* is an operation at which
something computed from parameters alone meets the examples: a product, a convolution, an addition of a bias. Zeros
added to the results of the entries, "taps", are all that is differentiated: one forward pass and one backward pass to
the activations. What parameters alone compute (a masked, merged or reshaped kernel) is differentiated apart from the
network, and entries of the same parameter are added before squaring. A parameter that enters by another door (an
embedding look-up, inside `lax.scan`) costs a pass of `vmap(grad)` over the examples, for such parameters alone.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from ctrain_jax.ops._checks import check_choice, check_positive

_INLINED = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2")
_ELEMENTWISE = ("add", "add_any", "sub", "mul", "div", "max", "min")
_RESHAPES = ("reshape", "squeeze", "transpose", "convert_element_type", "copy", "copy_p", "broadcast_in_dim")


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
    (unbiased), `"empirical"` uses `labels` (not a Fisher information, but often called so). For a perceptron the
    first costs `C` and the others one pass of about three forward passes.

    Args:
        forward: `(params, inputs) -> logits [B, C]`, for any `B`; deterministic, and row `n` of the result depends on
            row `n` of `inputs` alone (BatchNorm in evaluation mode).
        params: pytree of floats.
        inputs: pytree of `[B, ...]`.
        rng: a key; `"sampled"` draws the labels as `jax.random.categorical(rng, logits)`.
        labels: int `[B]`, read by `"empirical"` alone.
        weights: `[B]`, a factor for each example; 0 for padding. Default 1.
        mode: `"sampled"`, `"empirical"` or `"exact"`.
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
    check_choice("mode", mode, ("sampled", "empirical", "exact"))
    check_positive("chunk", chunk)
    if mode == "empirical" and labels is None:
        raise ValueError('mode="empirical" needs labels [B], got None: pass labels=, or choose "sampled" or "exact".')
    leaves, treedef = jax.tree.flatten(params)
    batch = jax.tree.leaves(inputs)[0].shape[0]
    plan = _plan(forward, params, inputs, batch)

    known = _constants_and(plan, leaves)
    _run(plan, plan.static, known)
    taps = {k: jnp.zeros(entry.tap.shape, entry.tap.dtype) for k, entry in plan.entries.items()}

    def tapped(taps):
        values = known | dict(zip(plan.program.inputs, jax.tree.leaves(inputs), strict=True))
        read = _run(plan, plan.dynamic, values, taps)
        return values[plan.program.logits], read

    logits, backward, read = jax.vjp(tapped, taps, has_aux=True)
    mask = jnp.broadcast_to(True if class_mask is None else class_mask, logits.shape)
    scores = jnp.where(mask, _wide(logits), jnp.finfo(jnp.float32).min)
    probs = jax.nn.softmax(scores) * mask
    if mode == "sampled":
        labels = jax.random.categorical(rng, scores)
    targets = None if mode == "exact" else labels
    weights = jnp.ones((batch,)) if weights is None else jnp.asarray(weights, jnp.float32)

    held = {k: read[k] for k in plan.shared if k in read}
    upstream = [leaves[i] for i in plan.indirect]
    indirect = jax.vjp(lambda upstream: _upstream(plan, leaves, upstream), upstream)[1] if upstream else None

    def squares(score: jax.Array, factor: jax.Array) -> tuple[dict[int, jax.Array], list[jax.Array]]:
        (slopes,) = backward(score.astype(logits.dtype))
        factor = factor * weights
        squared = {k: _rows(factor, slopes[k]) * _wide(slopes[k]) ** 2 for k in plan.direct.values()}
        if indirect is None:
            return squared, []

        def example(row, factor):
            inputs, slopes = row
            at_entry = {k: _pull(plan.entries[k], inputs.get(k), slopes[k]) for k in plan.shared}
            return [factor * _wide(grad) ** 2 for grad in indirect(at_entry)[0]]

        return squared, _sum_rows(example, (held, {k: slopes[k] for k in plan.shared}), factor, chunk)

    squared, shared = _expectation(squares, probs, mask, targets)
    fisher: list[Any] = [jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in leaves]
    for i, k in plan.direct.items():
        fisher[i] = _product(plan, i, k, read.get(k), squared[k], fisher[i])
    for i, total in zip(plan.indirect, shared, strict=True):
        fisher[i] = total
    if plan.others:

        def whole(row, factor):
            inputs, probs, mask, target = row
            some = [leaves[i] for i in plan.others]

            def logits_of(some):
                merged = list(leaves)
                for i, leaf in zip(plan.others, some, strict=True):
                    merged[i] = leaf
                return forward(treedef.unflatten(merged), jax.tree.map(lambda x: x[None], inputs))[0]

            pull = jax.vjp(logits_of, some)[1]
            return _expectation(
                lambda score, p: [factor * p * _wide(g) ** 2 for g in pull(score.astype(logits.dtype))[0]],
                probs,
                mask,
                None if mode == "exact" else target,
            )

        row = (inputs, probs, mask, jnp.zeros((batch,), jnp.int32) if targets is None else targets)
        for i, total in zip(plan.others, _sum_rows(whole, row, weights, chunk), strict=True):
            fisher[i] = total
    return treedef.unflatten(fisher)


class _Equation(NamedTuple):
    primitive: jex.Primitive
    params: dict[str, Any]
    reads: tuple[int, ...]
    writes: tuple[int, ...]


class _Program(NamedTuple):
    """A traced function, calls inlined; values are numbered."""

    equations: list[_Equation]
    avals: list[Any]
    constants: dict[int, Any]
    leaves: tuple[int, ...]
    inputs: tuple[int, ...]
    logits: int


class _Entry(NamedTuple):
    """Where a value of parameters alone (operand `position` of an equation) meets the examples."""

    equation: _Equation
    position: int
    value: jax.ShapeDtypeStruct
    tap: jax.ShapeDtypeStruct  # [B, ...], added to the operand where `on_operand`, to the result otherwise
    on_operand: bool
    shared: bool  # an example uses an element of the value more than once


class _Plan(NamedTuple):
    program: _Program
    static: list[int]  # equations of parameters and constants alone
    dynamic: list[int]  # equations that see the examples
    entries: dict[int, _Entry]  # by equation
    direct: dict[int, int]  # leaf -> its only entry, reached by reshaping, its elements used once by each example
    indirect: list[int]  # leaves all of whose entries are understood
    shared: list[int]  # entries of the indirect leaves
    others: list[int]  # leaves that go through vmap(grad)


def _plan(forward: Callable[[Any, Any], jax.Array], params: Any, inputs: Any, batch: int) -> _Plan:
    program, wider = (_record(forward, params, inputs, num) for num in (batch, batch + 1))
    leaves = range(len(program.leaves))
    names = [e.primitive.name for e in program.equations]
    if names != [e.primitive.name for e in wider.equations]:
        return _Plan(program, [], list(range(len(names))), {}, {}, [], [], list(leaves))

    def by_row(slot: int) -> bool:
        shape, other = program.avals[slot].shape, wider.avals[slot].shape
        return bool(shape) and (batch, *shape[1:]) == shape and (batch + 1, *shape[1:]) == other

    seeing = {slot for slot, (a, b) in enumerate(zip(program.avals, wider.avals, strict=True)) if a.shape != b.shape}
    upstream = {slot: frozenset((i,)) for i, slot in enumerate(program.leaves)}
    static, dynamic, meets = [], [], []
    for k, equation in enumerate(program.equations):
        if seeing.intersection(equation.reads + equation.writes):
            dynamic.append(k)
            seeing.update(equation.writes)
            meets += [(k, j) for j, slot in enumerate(equation.reads) if slot not in seeing and upstream.get(slot)]
        else:
            static.append(k)
            sources = frozenset().union(*(upstream.get(slot, ()) for slot in equation.reads))
            upstream.update((slot, sources) for slot in equation.writes)

    entries, others = {}, set()
    for k, j in meets:
        entry = _entry(program, program.equations[k], j, by_row)
        if entry is None or k in entries:
            others |= upstream[program.equations[k].reads[j]]
        else:
            entries[k] = entry
    others |= upstream.get(program.logits, frozenset())
    direct = {}
    for i in leaves:
        k = _sole_entry(program, program.leaves[i], entries)
        if i not in others and k is not None and not entries[k].shared:
            direct[i] = k
    reached = {k: upstream[entry.equation.reads[entry.position]] for k, entry in entries.items()}
    indirect = [i for i in leaves if i not in others and i not in direct and any(i in r for r in reached.values())]
    shared = [k for k, sources in reached.items() if sources.intersection(indirect)]
    entries = {k: entries[k] for k in entries if k in shared or k in direct.values()}
    return _Plan(program, static, dynamic, entries, direct, indirect, shared, sorted(others))


def _record(forward: Callable[[Any, Any], jax.Array], params: Any, inputs: Any, num: int) -> _Program:
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((num, *x.shape[1:]), x.dtype), inputs)
    closed, result = jax.make_jaxpr(forward, return_shape=True)(params, rows)
    if not hasattr(result, "shape") or len(result.shape) != 2 or result.shape[0] != num:
        got = jax.tree.map(lambda x: x.shape, result)
        raise ValueError(f"forward must return logits [B, C] for {num} inputs, got {got}: return the logits alone.")
    equations, avals, constants = [], [], {}

    def number(aval: Any) -> int:
        avals.append(aval)
        return len(avals) - 1

    def constant(value: Any) -> int:
        slot = number(jax.typeof(value))
        constants[slot] = value
        return slot

    def inline(jaxpr: jex.Jaxpr, consts: Sequence[Any], arguments: Sequence[int]) -> tuple[int, ...]:
        slots = dict(zip(jaxpr.constvars, map(constant, consts), strict=True))
        slots.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> int:
            return constant(atom.val) if isinstance(atom, jex.Literal) else slots[atom]

        for eqn in jaxpr.eqns:
            reads, inner = tuple(map(read, eqn.invars)), eqn.params.get("jaxpr")
            if eqn.primitive.name in _INLINED and inner is not None:
                writes = inline(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), reads)
            else:
                writes = tuple(number(var.aval) for var in eqn.outvars)
                equations.append(_Equation(eqn.primitive, eqn.params, reads, writes))
            slots.update(zip(eqn.outvars, writes, strict=True))
        return tuple(map(read, jaxpr.outvars))

    arguments = tuple(number(var.aval) for var in closed.jaxpr.invars)
    (logits,) = inline(closed.jaxpr, closed.consts, arguments)
    num_leaves = len(jax.tree.leaves(params))
    return _Program(equations, avals, constants, arguments[:num_leaves], arguments[num_leaves:], logits)


def _entry(program: _Program, equation: _Equation, position: int, by_row: Callable[[int], bool]) -> _Entry | None:
    """The entry, or None for an operation that is not known to treat its first axis row by row."""
    name, params = equation.primitive.name, equation.params
    if len(equation.writes) != 1 or not by_row(equation.writes[0]):
        return None
    value, result = (program.avals[slot] for slot in (equation.reads[position], equation.writes[0]))
    value, result = (jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in (value, result))
    if name in _ELEMENTWISE and value.shape[:1] in ((), (1,)):
        rest = value.shape[1:] if value.shape else (1,) * (len(result.shape) - 1)
        tap = jax.ShapeDtypeStruct((result.shape[0], *rest), value.dtype)
        return _Entry(equation, position, value, tap, on_operand=True, shared=False)
    if name == "broadcast_in_dim":
        return _Entry(equation, position, value, result, on_operand=False, shared=True)
    if position != 1 or not by_row(equation.reads[0]):
        return None
    if name == "dot_general":
        (contracted, _), batched = params["dimension_numbers"]
        if 0 in contracted or any(batched):
            return None
        shared = len(program.avals[equation.reads[0]].shape) > 1 + len(contracted)
        return _Entry(equation, position, value, result, on_operand=False, shared=shared)
    if name == "conv_general_dilated" and params["batch_group_count"] == 1:
        if params["dimension_numbers"].lhs_spec[0] == params["dimension_numbers"].out_spec[0] == 0:
            return _Entry(equation, position, value, result, on_operand=False, shared=True)
    return None


def _chain(program: _Program, slot: int) -> list[int]:
    """The equations that only rearrange the elements of a value, up to the first that does more or to a branching."""
    users = [k for k, equation in enumerate(program.equations) for read in equation.reads if read == slot]
    if len(users) != 1 or slot == program.logits:
        return []
    equation = program.equations[users[0]]
    size = [math.prod(program.avals[s].shape) for s in (slot, equation.writes[0])]
    if equation.primitive.name not in _RESHAPES or size[0] != size[1]:
        return users
    return users + _chain(program, equation.writes[0])


def _sole_entry(program: _Program, slot: int, entries: dict[int, _Entry]) -> int | None:
    chain = _chain(program, slot)
    return chain[-1] if chain and chain[-1] in entries else None


def _constants_and(plan: _Plan, leaves: Sequence[jax.Array]) -> dict[int, Any]:
    return plan.program.constants | dict(zip(plan.program.leaves, leaves, strict=True))


def _run(plan: _Plan, which: list[int], values: dict[int, Any], taps: dict[int, Any] | None = None) -> dict[int, Any]:
    """Evaluates equations into `values`, adding the taps; returns the rows that products and convolutions read."""
    read = {}
    for k in which:
        equation = plan.program.equations[k]
        operands = [values[slot] for slot in equation.reads]
        entry = plan.entries.get(k) if taps else None
        if entry is not None and entry.on_operand:
            operands[entry.position] = taps[k] + _padded(operands[entry.position], entry)
        results = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
        results = list(results) if equation.primitive.multiple_results else [results]
        if entry is not None and not entry.on_operand:
            results[0] = results[0] + taps[k]
            if entry.position == 1:
                read[k] = operands[0]
        values.update(zip(equation.writes, results, strict=True))
    return read


def _padded(value: jax.Array, entry: _Entry) -> jax.Array:
    return value.reshape(1, *entry.tap.shape[1:])


def _meet(entry: _Entry, value: jax.Array, rows: jax.Array | None, num: int) -> jax.Array:
    """What is tapped, as a linear function of the value, for `num` examples."""
    params = dict(entry.equation.params)
    if entry.on_operand:
        return jnp.broadcast_to(_padded(value, entry), (num, *entry.tap.shape[1:]))
    if rows is None:
        return jax.lax.broadcast_in_dim(value, (num, *entry.tap.shape[1:]), params["broadcast_dimensions"])
    params["preferred_element_type"] = None
    return entry.equation.primitive.bind(rows, value, **params)


def _pull(entry: _Entry, row: jax.Array | None, slope: jax.Array) -> jax.Array:
    """The gradient of one example with respect to the value."""
    rows = None if row is None else _wide(row)[None]
    value = jax.ShapeDtypeStruct(entry.value.shape, jnp.promote_types(entry.value.dtype, jnp.float32))
    (grad,) = jax.linear_transpose(lambda value: _meet(entry, value, rows, 1), value)(_wide(slope)[None])
    return grad.astype(entry.value.dtype)


def _product(plan: _Plan, leaf: int, k: int, rows: jax.Array | None, squared: jax.Array, like: jax.Array) -> jax.Array:
    """Goodfellow's product: the layer is linear, so its transpose takes squares to the sum of squares."""
    slot = plan.program.leaves[leaf]
    moves = [plan.program.equations[m] for m in _chain(plan.program, slot)[:-1]]
    rows = None if rows is None else _wide(rows) ** 2

    def enter(value: jax.Array) -> jax.Array:
        for move in moves:
            if move.primitive.name != "convert_element_type":
                value = move.primitive.bind(value, **move.params)
        return _meet(plan.entries[k], value, rows, squared.shape[0])

    return jax.linear_transpose(enter, like)(squared)[0]


def _upstream(plan: _Plan, leaves: Sequence[jax.Array], upstream: Sequence[jax.Array]) -> dict[int, jax.Array]:
    """The values at the shared entries, as a function of the indirect leaves."""
    merged = list(leaves)
    for i, leaf in zip(plan.indirect, upstream, strict=True):
        merged[i] = leaf
    values = _constants_and(plan, merged)
    _run(plan, plan.static, values)
    return {k: values[plan.entries[k].equation.reads[plan.entries[k].position]] for k in plan.shared}


def _expectation(
    squares: Callable[[jax.Array, jax.Array], Any], probs: jax.Array, mask: jax.Array, labels: jax.Array | None
) -> Any:
    """`squares(gradient of log p(y) by the logits, probability)`, summed over the classes or for one label."""
    num_classes = probs.shape[-1]

    def of(label: jax.Array, factor: jax.Array) -> Any:
        return squares((jax.nn.one_hot(label, num_classes) - probs) * mask, factor)

    if labels is not None:
        return of(labels, jnp.ones(probs.shape[:-1]))

    def add(total, label):
        return jax.tree.map(jnp.add, total, of(label, probs[..., label])), None

    shapes = jax.eval_shape(of, jnp.int32(0), probs[..., 0])
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
    total, _ = jax.lax.scan(
        lambda total, place: (jax.tree.map(jnp.add, total, part(place)), None), part(place[0]), place[1:]
    )
    return total


def _rows(factor: jax.Array, like: jax.Array) -> jax.Array:
    return factor.reshape(-1, *(1,) * (like.ndim - 1))


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

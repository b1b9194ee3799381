"""Where the parameters of a traced function meet its examples.

`forward(params, inputs)` is traced twice, for `B` and for `B + 1` examples: what changes shape, or depends on `inputs`,
sees the examples. An *entry* is an equation in which a value of parameters alone meets a value that sees the examples,
one row for each, in their order. `run` evaluates the equations again with an array added at every entry, a tap, whose
gradient is the gradient of the meeting value, example by example.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core as jex

_INLINED = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2")
_ELEMENTWISE = ("add", "add_any", "sub", "mul", "div", "max", "min")
_RESHAPES = ("reshape", "squeeze", "transpose", "convert_element_type", "copy", "copy_p", "broadcast_in_dim")


class Equation(NamedTuple):
    """One operation, and the numbers of the values that it reads and writes."""

    primitive: jex.Primitive
    params: dict[str, Any]
    reads: tuple[int, ...]
    writes: tuple[int, ...]


class Program(NamedTuple):
    """A traced function, calls inlined; values are numbered."""

    equations: list[Equation]
    avals: list[Any]
    constants: dict[int, Any]
    leaves: tuple[int, ...]
    inputs: tuple[int, ...]
    logits: int


class Entry(NamedTuple):
    """Where a value of parameters alone (operand `position` of an equation) meets the examples."""

    equation: Equation
    position: int
    value: jax.ShapeDtypeStruct
    tap: jax.ShapeDtypeStruct  # [B, ...], added to the operand where `on_operand`, to the result otherwise
    on_operand: bool
    shared: bool  # an example uses an element of the value more than once
    merged: bool = False  # the first axis of the equation is examples x positions; [B, P, ...] in the tap


class Plan(NamedTuple):
    """What is computed when, and how each leaf of the parameters is reached."""

    program: Program
    static: list[int]  # equations of parameters and constants alone
    dynamic: list[int]  # equations that see the examples
    entries: dict[int, Entry]  # by equation
    direct: dict[int, int]  # leaf -> its only entry, reached by reshaping, its elements used once by each example
    indirect: list[int]  # leaves all of whose entries are understood
    shared: list[int]  # entries of the indirect leaves
    others: list[int]  # leaves that go through vmap(grad)


def make_plan(forward: Callable[[Any, Any], jax.Array], params: Any, inputs: Any, batch: int) -> Plan:
    """Traces `forward` at `batch` and at one example more, which tells the axis of the examples from the others."""
    program, wider = (_record(forward, params, inputs, num) for num in (batch, batch + 1))
    leaves = range(len(program.leaves))
    names = [e.primitive.name for e in program.equations]
    if names != [e.primitive.name for e in wider.equations]:
        return Plan(program, [], list(range(len(names))), {}, {}, [], [], list(leaves))

    seeing = {slot for slot, (a, b) in enumerate(zip(program.avals, wider.avals, strict=True)) if a.shape != b.shape}
    upstream = {slot: frozenset((i,)) for i, slot in enumerate(program.leaves)}
    static, dynamic, meets, shuffled = [], [], [], set()
    for k, equation in enumerate(program.equations):
        if seeing.intersection(equation.reads + equation.writes):
            dynamic.append(k)
            seeing.update(equation.writes)
            moved = seeing.intersection(equation.reads[:1]) and _reorders(program, equation)
            if moved or shuffled.intersection(equation.reads):
                shuffled.update(equation.writes)
            meets += [(k, j) for j, slot in enumerate(equation.reads) if slot not in seeing and upstream.get(slot)]
        else:
            static.append(k)
            sources = frozenset().union(*(upstream.get(slot, ()) for slot in equation.reads))
            upstream.update((slot, sources) for slot in equation.writes)

    made_from = {e.writes[0]: e.reads[0] for e in program.equations if e.primitive.name == "reshape"}

    def positions(slot: int) -> int:
        """How many rows of the first axis belong to an example; 0 if it is not known to be ordered by example."""
        shape, other = program.avals[slot].shape, wider.avals[slot].shape
        num = shape[0] // batch if shape and slot not in shuffled else 0
        fits = num > 0 and (batch * num, *shape[1:]) == shape and ((batch + 1) * num, *shape[1:]) == other
        if not fits or num == 1:
            return int(fits)
        return num if slot in made_from and positions(made_from[slot]) == 1 else 0

    entries, others = {}, set()
    for k, j in meets:
        entry = _entry(program, program.equations[k], j, batch, positions)
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
    return Plan(program, static, dynamic, entries, direct, indirect, shared, sorted(others))


def _record(forward: Callable[[Any, Any], jax.Array], params: Any, inputs: Any, num: int) -> Program:
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
                equations.append(Equation(eqn.primitive, eqn.params, reads, writes))
            slots.update(zip(eqn.outvars, writes, strict=True))
        return tuple(map(read, jaxpr.outvars))

    arguments = tuple(number(var.aval) for var in closed.jaxpr.invars)
    (logits,) = inline(closed.jaxpr, closed.consts, arguments)
    num_leaves = len(jax.tree.leaves(params))
    return Program(equations, avals, constants, arguments[:num_leaves], arguments[num_leaves:], logits)


def _reorders(program: Program, equation: Equation) -> bool:
    """Whether the first axis may come out in another order."""
    name, params = equation.primitive.name, equation.params
    if name == "gather":
        whole = program.avals[equation.reads[0]].shape[:1] == params["slice_sizes"][:1]
        return not whole and 0 not in params["dimension_numbers"].operand_batching_dims
    if name in ("concatenate", "sort"):
        return params["dimension"] == 0
    return name.startswith("scatter") or (name == "rev" and 0 in params["dimensions"])


def _entry(
    program: Program, equation: Equation, position: int, batch: int, positions: Callable[[int], int]
) -> Entry | None:
    """The entry, or None for an operation that is not known to treat the examples one by one."""
    name, params = equation.primitive.name, equation.params
    if len(equation.writes) != 1:
        return None
    value, result = (program.avals[slot] for slot in (equation.reads[position], equation.writes[0]))
    value, result = (jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in (value, result))
    if name in _ELEMENTWISE and positions(equation.writes[0]) == 1 and value.shape[:1] in ((), (1,)):
        rest = value.shape[1:] if value.shape else (1,) * (len(result.shape) - 1)
        tap = jax.ShapeDtypeStruct((batch, *rest), value.dtype)
        return Entry(equation, position, value, tap, on_operand=True, shared=False)
    if name == "broadcast_in_dim" and positions(equation.writes[0]) == 1:
        return Entry(equation, position, value, result, on_operand=False, shared=True)
    num = positions(equation.reads[0])
    if position != 1 or num == 0:
        return None
    if name == "dot_general":
        (contracted, _), batched = params["dimension_numbers"]
        if 0 in contracted or any(batched):
            return None
        if num > 1:
            tap = jax.ShapeDtypeStruct((batch, num, *result.shape[1:]), result.dtype)
            return Entry(equation, position, value, tap, on_operand=False, shared=True, merged=True)
        shared = len(program.avals[equation.reads[0]].shape) > 1 + len(contracted)
        return Entry(equation, position, value, result, on_operand=False, shared=shared)
    if name == "conv_general_dilated" and num == params["batch_group_count"] == 1:
        if params["dimension_numbers"].lhs_spec[0] == params["dimension_numbers"].out_spec[0] == 0:
            return Entry(equation, position, value, result, on_operand=False, shared=True)
    return None


def chain_of(program: Program, slot: int) -> list[int]:
    """The equations that only rearrange the elements of a value, up to the first that does more or to a branching."""
    users = [k for k, equation in enumerate(program.equations) for read in equation.reads if read == slot]
    if len(users) != 1 or slot == program.logits:
        return []
    equation = program.equations[users[0]]
    size = [math.prod(program.avals[s].shape) for s in (slot, equation.writes[0])]
    if equation.primitive.name not in _RESHAPES or size[0] != size[1]:
        return users
    return users + chain_of(program, equation.writes[0])


def _sole_entry(program: Program, slot: int, entries: dict[int, Entry]) -> int | None:
    chain = chain_of(program, slot)
    return chain[-1] if chain and chain[-1] in entries else None


def known_values(plan: Plan, leaves: Sequence[jax.Array]) -> dict[int, Any]:
    """The values that are there before anything is computed: constants and parameters."""
    return plan.program.constants | dict(zip(plan.program.leaves, leaves, strict=True))


def run(plan: Plan, which: list[int], values: dict[int, Any], taps: dict[int, Any]) -> dict[int, Any]:
    """Evaluates equations into `values`, adding the taps; returns the rows that products and convolutions read."""
    read = {}
    for k in which:
        equation = plan.program.equations[k]
        operands = [values[slot] for slot in equation.reads]
        entry = plan.entries[k] if k in taps else None
        if entry is not None and entry.on_operand:
            operands[entry.position] = taps[k] + padded(operands[entry.position], entry)
        results = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
        results = list(results) if equation.primitive.multiple_results else [results]
        if entry is not None and not entry.on_operand:
            results[0] = results[0] + taps[k].reshape(results[0].shape)
            if entry.position == 1:
                shape = operands[0].shape
                read[k] = operands[0].reshape(*entry.tap.shape[:2], *shape[1:]) if entry.merged else operands[0]
        values.update(zip(equation.writes, results, strict=True))
    return read


def padded(value: jax.Array, entry: Entry) -> jax.Array:
    """A value of parameters alone with a first axis for the examples."""
    return value.reshape(1, *entry.tap.shape[1:])

"""Interval arithmetic through a function: what it may answer when its arguments may be anything in a box.

Gowal et al., "On the Effectiveness of Interval Bound Propagation for Training Verifiably Robust Models", 2018, arXiv
1810.12715. In the form of centre and radius, which is sound but not tight: bounds of a product of two boxes are wider
than they need be, and how one entry depends on another is forgotten.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

# Each entry of the answer is one of the argument, or a sum of some.
_MOVED = frozenset(
    "broadcast_in_dim concatenate convert_element_type copy dynamic_slice gather reduce_sum reshape rev slice squeeze "
    "transpose".split()
)
_RISING = frozenset("erf exp log1p logistic max min reduce_max reduce_min sqrt tanh".split())
_CALLS = frozenset("closed_call custom_jvp_call custom_vjp_call jit pjit".split())
_BILINEAR = frozenset(("conv_general_dilated", "dot_general", "mul"))


class _Interval(NamedTuple):
    center: jax.Array
    radius: jax.Array | None  # None: it is the centre exactly


def interval_bounds(function: Callable[[Any], Any], center: Any, radius: Any) -> tuple[Any, Any]:
    r"""Centre and radius of a box that holds all values of a function over a box.

    .. math:: W x: \quad c = W_c x_c, \quad r = |W_c| \, x_r + W_r \, (|x_c| + x_r); \qquad
              \text{a rising } f: \quad \tfrac12 \big(f(x_c + x_r) \pm f(x_c - x_r)\big)

    Args:
        function: of one tree to a tree, of linear maps, products, and rising functions of single entries (relu, tanh).
            What it closes over is exact.
        center: the tree.
        radius: like `center`, 0 or above.

    Returns:
        (centre, radius), like what the function returns.

    Raises:
        ValueError: an operation whose bounds are not known here.

    Example:
        >>> interval_bounds(lambda x: jax.nn.relu(-2 * x), jnp.array([0.5, -1.0]), jnp.array([1.0, 0.5]))
        (Array([0.5, 2. ], dtype=float32), Array([0.5, 1. ], dtype=float32))
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(center)
    given = [_Interval(*pair) for pair in zip(jax.tree.leaves(center), jax.tree.leaves(radius), strict=True)]
    answers = _run(closed.jaxpr, [_Interval(const, None) for const in closed.consts], given)
    tree = jax.tree.structure(shape)
    radii = [jnp.zeros_like(a.center) if a.radius is None else a.radius for a in answers]
    return jax.tree.unflatten(tree, [a.center for a in answers]), jax.tree.unflatten(tree, radii)


def _run(jaxpr: Jaxpr, consts: Sequence[_Interval], given: Sequence[_Interval]) -> list[_Interval]:
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *given), strict=True))

    def read(atom: Any) -> _Interval:
        if not isinstance(atom, Literal):
            return known[atom]
        dtype = atom.aval.dtype  # pyright: ignore[reportAttributeAccessIssue]
        return _Interval(jnp.asarray(atom.val, dtype), None)

    for eqn in jaxpr.eqns:
        found = _apply(eqn, [read(atom) for atom in eqn.invars])
        known.update(zip(eqn.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(eqn: Any, given: list[_Interval]) -> list[_Interval]:
    name, centers, radii = eqn.primitive.name, [x.center for x in given], [x.radius for x in given]
    if name in _CALLS:
        inner = next(value for value in eqn.params.values() if isinstance(value, ClosedJaxpr))
        return _run(inner.jaxpr, [_Interval(const, None) for const in inner.consts], given)

    def bind(*args: jax.Array) -> Any:
        return eqn.primitive.bind(*args, **eqn.params)

    if all(radius is None for radius in radii):
        answers = bind(*centers)
        return [_Interval(x, None) for x in (answers if eqn.primitive.multiple_results else [answers])]
    filled = [jnp.zeros_like(x.center) if x.radius is None else x.radius for x in given]
    if name in _BILINEAR:
        return [_product(bind, *given)]
    if name in ("add", "add_any"):
        return [_Interval(bind(*centers), filled[0] + filled[1])]
    if name == "sub":
        return [_Interval(bind(*centers), filled[0] + filled[1])]
    if name == "neg":
        return [_Interval(bind(*centers), filled[0])]
    if name == "div" and radii[1] is None:
        return [_Interval(bind(*centers), bind(filled[0], jnp.abs(centers[1])))]
    if name == "select_n" and radii[0] is None:
        return [_Interval(bind(*centers), bind(centers[0], *filled[1:]))]
    floats = jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating)
    if name in _MOVED and floats and (name == "concatenate" or all(radius is None for radius in radii[1:])):
        # Where an array is read is no interval, and a whole number none of its centre and radius.
        rest = filled[1:] if name == "concatenate" else centers[1:]
        return [_Interval(bind(*centers), bind(filled[0], *rest))]
    if name in _RISING:
        low, high = (bind(*(c + sign * r for c, r in zip(centers, filled, strict=True))) for sign in (-1, 1))
        return [_Interval((high + low) / 2, (high - low) / 2)]
    raise ValueError(
        f"interval_bounds knows no bounds of {name}: use linear maps, products, and rising functions of single entries."
    )


def _product(bind: Callable[..., jax.Array], a: _Interval, b: _Interval) -> _Interval:
    center = bind(a.center, b.center)
    if b.radius is None:
        return _Interval(center, bind(a.radius, jnp.abs(b.center)))
    radius = bind(jnp.abs(a.center), b.radius)
    if a.radius is not None:
        radius = radius + bind(a.radius, jnp.abs(b.center) + b.radius)
    return _Interval(center, radius)

"""The optimizer of a learner, started again."""

from typing import Any

import jax


def restart(ts: Any, ctx: Any) -> Any:
    """The optimizer anew, but for the values that `optax.inject_hyperparams` holds, or a sweep would lose its own.

    Args:
      ts: a `TrainState`, with the parameters to start from.
      ctx: of a hook.

    Returns:
      The train state with a new state of the optimizer.
    """

    def one(new: Any, old: Any) -> Any:
        if _injected(new):
            return new._replace(hyperparams=old.hyperparams, inner_state=both(new.inner_state, old.inner_state))
        return jax.lax.convert_element_type(new, old.dtype)

    def both(new: Any, old: Any) -> Any:
        return jax.tree.map(one, new, old, is_leaf=_injected)

    return ts._replace(opt_state=both(ctx.optimizer.init(ts.params), ts.opt_state))


def _injected(node: Any) -> bool:
    return hasattr(node, "hyperparams") and hasattr(node, "inner_state")

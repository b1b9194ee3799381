"""What methods that move weights a part of the way share."""

from typing import Any

import jax
import jax.numpy as jnp


def between(old: Any, new: Any, part: jax.Array) -> Any:
    """The tree `part` of the way from old to new, in the dtypes of new; what is not counted in floats is new."""

    def one(old, new):
        if not jnp.issubdtype(new.dtype, jnp.floating):
            return new
        # 1 is exactly new: old + 1 * (new - old) is not.
        return ((1 - part) * old + part * new).astype(new.dtype)

    return jax.tree.map(one, old, new)

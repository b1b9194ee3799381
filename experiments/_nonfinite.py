"""What becomes of a run whose numbers are not finite: how often it goes on, and what it says."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax import core

MOST_ROLLBACKS = 3  # from one checkpoint
MOST_SKIPPED = 100  # steps in a row


def in_another_order(state: core.TrainState, seeds: np.ndarray, attempt: int) -> core.TrainState:
    """The state with other random numbers from here on, the order of rows among them, for some of its seeds."""

    def fold(key: jax.Array, chosen: jax.Array) -> jax.Array:
        data = jax.random.key_data(key)
        other = jax.random.key_data(jax.random.fold_in(key, attempt))
        return jax.random.wrap_key_data(jnp.where(chosen, other, data), impl=jax.random.key_impl(key))

    return state._replace(rng=jax.vmap(fold)(state.rng, seeds))


def where(found: core.Breakdown | None, seeds: Sequence[int]) -> str:
    """Which number broke, in which step and seed."""
    if found is None:
        return "numbers that were not finite, and are when the same steps are run again: look at the memory"
    return f"{found}, for seed {', '.join(str(seeds[place]) for place in found.seeds)}"


def told(found: core.Breakdown | None, seeds: Sequence[int], policy: str, done: int) -> str:
    """Why the run ends, and what to do."""
    tried = {
        "stop": "lower the learning rate or clip gradients, or try --nonfinite=skip or --nonfinite=rollback",
        "skip": "leaving such steps out did not help; lower the learning rate or clip gradients",
        "rollback": f"other orders of the rows did not help {MOST_ROLLBACKS} times; lower the learning rate or clip "
        "gradients",
    }
    return f"{where(found, seeds)}; the run stands at its checkpoint of step {done}: {tried[policy]}."

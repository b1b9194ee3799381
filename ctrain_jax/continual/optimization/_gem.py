"""GEM: gradient episodic memory.

Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, arXiv 1706.08840. The authors'
code (facebookresearch/GradientEpisodicMemory) was opened. Where we differ: the memory of an experience is made of
random rows of it when it is over; theirs are the last ones to arrive, which is the same draw where rows arrive in a
random order. How the quadratic program is solved: see `optim.project_gem`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core import Method
from ctrain_jax.ops import check_non_negative, check_size, permute_index
from ctrain_jax.optim import project_gem


class GemState(NamedTuple):
    """Some rows of each experience."""

    margin: jax.Array  # float32 []
    records: dict[str, jax.Array]  # row numbers and experiences, int32 [T, m]
    held: jax.Array  # int32 [T], rows held of each experience; 0 before it is over


def gem(per_experience: int, *, margin: float = 0.5) -> Method:
    r"""Let no step go up the mean loss of rows of any earlier experience.

    With the gradient :math:`g` of the step and for each earlier experience :math:`k` the gradient :math:`g_k` of the
    task's own loss over its rows in the memory, at the same parameters, the optimizer is given

    .. math:: \arg\min_{\tilde g} \frac{1}{2} \|\tilde g - g\|_2^2 \quad \text{where} \quad
              \langle \tilde g, g_k \rangle \ge 0 \;\; \text{for all } k < t

    in place of :math:`g` (and with a margin somewhat more of each :math:`g_k`). :math:`g` is all that is minimised,
    penalties included; :math:`g_k` has no penalties. Cost: in the :math:`t`-th experience :math:`t - 1` forward and
    backward passes of `per_experience` rows a step, and T copies of the parameters. The projection is before the
    optimizer, as published (plain SGD): an adaptive optimizer behind it turns the step again.

    Args:
      per_experience: rows that are held of each experience, all of them used in every step; row numbers are stored,
        8 bytes each.
      margin: the least weight of each :math:`g_k` in :math:`\tilde g` where one conflicts; 0.5 in the paper, 0 for the
        projection.

    Returns:
      The method.

    Raises:
      ValueError: `per_experience` below 1, a negative margin.

    Example:
      >>> gem(64, margin=0.0).name
      'gem'
    """
    check_size("per_experience", per_experience)
    check_non_negative("margin", margin)

    def init(rng, params, ctx):
        num = ctx.spec.num_experiences
        records = {k: jnp.zeros((num, per_experience, *v.shape), v.dtype) for k, v in ctx.spec.record.items()}
        return GemState(jnp.asarray(margin, jnp.float32), records, jnp.zeros((num,), jnp.int32))

    def optimizer(tx):
        def update(updates, state, params=None, **extra):
            s, ctx = extra["method_state"], extra["ctx"]
            earlier = jnp.arange(ctx.spec.num_experiences) < ctx.experience.index

            def reference(past):
                records, held, over = past

                def gradient():
                    weights = (jnp.arange(per_experience) < held).astype(jnp.float32)
                    return ctx.grad_fn(params, batch=ctx.fetch(records) | {"weights": weights}, penalties=False)

                return jax.lax.cond(over, gradient, lambda: optax.tree.zeros_like(params))

            references = jax.lax.map(reference, (s.records, s.held, earlier))
            projection = project_gem(s.margin)
            updates, _ = projection.update(updates, optax.EmptyState(), references=references, active=earlier)
            return tx.update(updates, state, params, **extra)

        return optax.GradientTransformationExtraArgs(tx.init, update)

    def end(s, ts, ctx):
        experience = ctx.experience
        at = jnp.arange(per_experience, dtype=jnp.int32)
        place = permute_index(ctx.rng, at % experience.size, experience.size)
        new = {"row": experience.rows[place], "experience": experience.origin[place]}
        records = {k: s.records[k].at[experience.index].set(new[k]) for k in s.records}
        held = s.held.at[experience.index].set(jnp.minimum(experience.size, per_experience))
        return s._replace(records=records, held=held), ts

    return Method("gem", init=init, end=end, optimizer=optimizer, needs=("boundaries", "labels"))

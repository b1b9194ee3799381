"""LAE: two adapters, one that learns and one that follows slowly, and the surer of the two answers.

Gao et al., "A Unified Continual Learning Framework with General Parameter-Efficient Tuning", ICCV 2023, arXiv
2303.10070. Opened: main.py of gqk/LAE, what runs it and its configs; the paper was not. Where we differ: how fast
adapters of other kinds learn is left to the user's rates; how long the adapter waits is told in steps, not in epochs,
and is 0 unless it is given; the optimizer goes on, where theirs starts anew with each task. Where one adapter forgets
nearly all (an MLP of Fashion-MNIST on Split-MNIST: 21.4 with LoRA of rank 4) an average of it gained nothing: 21.6.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core import Method, ModelTransform, PyTree, after, mask_logits
from ctrain_jax.ops import check_fraction


class LaeState(NamedTuple):
    """The slow adapter."""

    decay: jax.Array  # float32 []
    offline: PyTree  # like params["new"]
    done: jax.Array  # int32 [], steps of this experience


def lae(pet: ModelTransform, *, decay: float = 0.9999, freeze_steps: int = 0) -> Method:
    r"""Learn, accumulate and ensemble: an online adapter and an offline one that is its moving average.

    The online adapter :math:`\phi` is trained. Through the first experience the offline one is the same; after that
    each step moves it, :math:`\phi' \leftarrow a \phi' + (1 - a) \phi`. What `pet` trains of the base, as the head, is
    shared. An answer is, for each class that came so far, the larger of the two probabilities:

    .. math:: \max(\mathrm{softmax}(f_\phi(x)), \mathrm{softmax}(f_{\phi'}(x)))

    The paper takes the loss over the classes of the experience alone: `core.chain(peft.lae(pet),
    continual.local_loss())`. Start from a trained network: `core.run_stream(learner, variables=...)`.

    Args:
      pet: the adapter, as `peft.lora(4, train="^head")` or `peft.prefix(10, train="^head")`.
      decay: :math:`a`. At 0 the two are one; at 1 the offline adapter stays as the first experience left it. It is to
        suit the steps of the stream: an average over about `1 / (1 - decay)` of them.
      freeze_steps: steps of each experience but the first in which the adapter waits until new weights of the head
        have settled; the authors' code waits 3 epochs of 5.

    Returns:
      The method. Its state is a copy of the adapter; an answer costs two forward passes. It stands first in a chain.

    Raises:
      ValueError: a `decay` outside [0, 1], negative `freeze_steps`; when a learner is made, a `pet` that adds no
        parameters of its own, a stream without boundaries.

    Example:
      >>> from ctrain_jax import peft
      >>> lae(peft.lora(4, train="^head")).name
      'lae'

    References:
      Gao et al. 2023, arXiv 2303.10070.
    """
    check_fraction("decay", decay)
    if isinstance(freeze_steps, bool) or not isinstance(freeze_steps, int) or freeze_steps < 0:
        raise ValueError(f"freeze_steps expects a number of steps of at least 0, got {freeze_steps!r}.")

    def init(rng, params, ctx):
        if not isinstance(params, dict) or "new" not in params:
            raise ValueError("lae averages what pet adds, params['new'], and finds none: put it first in the chain.")
        return LaeState(jnp.asarray(decay, jnp.float32), params["new"], jnp.zeros((), jnp.int32))

    def begin(s, ts, ctx):
        return s._replace(done=jnp.zeros((), jnp.int32)), ts

    def waits(updates, state, params=None, **extra):
        waiting = (extra["ctx"].experience.index > 0) & (extra["method_state"].done < freeze_steps)
        return {**updates, "new": jax.tree.map(lambda u: jnp.where(waiting, 0, u), updates["new"])}, state

    def update(s, ts, ctx):
        decay = jnp.where(ctx.experience.index == 0, 0, s.decay)
        offline = optax.incremental_update(ts.params["new"], s.offline, 1 - decay)
        return s._replace(offline=offline, done=s.done + 1), ts

    def predict(s, ctx):
        batch = ctx.batch
        offline, _ = ctx.forward({**ctx.params, "new": s.offline}, batch["inputs"], task=batch.get("task"))
        seen = ctx.experience.seen
        sure = [jax.nn.log_softmax(mask_logits(x, seen)) for x in (ctx.outputs.logits, offline.logits)]
        return ctx.outputs._replace(logits=jnp.maximum(*sure))

    return Method(
        "lae",
        init=init,
        begin=begin,
        update=update,
        predict=predict,
        model=pet,
        optimizer=after(optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), waits)),
        needs=("boundaries",),
    )

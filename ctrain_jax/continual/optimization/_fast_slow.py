"""Fast and slow weights: each experience is learned from slow weights, which follow what was learned a little.

Wang, Li, Zhong and Zhu, "Few-shot Continual Learning: a Brain-inspired Approach", 2021, arXiv 2104.09034. Of the paper
the abstract was read; no code was found. Where we differ, as far as that tells: the consolidation of the fast weights
is that of any penalty in the chain, `ewc` or `mas`; the slow weights follow by one rate for all parameters, which may
decrease, where synapses of the paper have metaplasticity each of its own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.continual.optimization._between import between
from ctrain_jax.core import Method, PyTree
from ctrain_jax.ops import check_fraction


class FastSlowState(NamedTuple):
    """The slow weights, and how far they follow."""

    eps: jax.Array  # float32 []
    decay: jax.Array  # float32 []
    slow: optax.Params  # like params
    model_state: PyTree  # like model_state, of the slow weights


def fast_slow(eps: float = 0.3, *, decay: float = 1.0) -> Method:
    r"""Begin each experience at slow weights; answer by the fast weights that it ends with.

    The slow weights :math:`\phi` are where few-shot learning begins, the fast weights :math:`\theta` what is trained,
    under the penalties of the chain, which hold them near the fast weights of earlier experiences. In experience
    :math:`t`

    .. math:: \theta \leftarrow \phi_{t-1}, \qquad
              \theta_t = \text{training from } \theta, \qquad
              \phi_t = \phi_{t-1} + \epsilon_t (\theta_t - \phi_{t-1}), \qquad \epsilon_t = \epsilon \, \gamma^{t-1}

    which is a step of Reptile. So `chain(fast_slow(0.3), ewc(lam))` consolidates twice: tasks into the fast weights,
    these into the slow ones, `state.method_state["fast_slow"].slow`. What is counted in floats in the model's state
    (BatchNorm's statistics) goes the same way. The slow weights alone are those of `weight_interpolation`, which
    answers by them, takes the first experience whole and has penalties hold the weights near them.

    On turned digits, ten rows of each class, the fast weights kept less than `ewc` alone did, and the slow ones more;
    these were also the better start for a new task.

    Args:
      eps: :math:`\epsilon`, the part of the way, in [0, 1]; 1 goes on from the fast weights as plain training does, 0
        begins each experience at the first weights.
      decay: :math:`\gamma`, in [0, 1]; 1 keeps the rate.

    Returns:
      The method. The optimizer's state goes on. What keeps the network when an experience begins, or changes it when
      one is over (`wa` does both), comes before it in a chain: it keeps the fast weights then, not the slow ones, and
      what it changed is what these follow.

    Raises:
      ValueError: an `eps` or a `decay` outside of [0, 1].

    Example:
      >>> fast_slow(0.3).name
      'fast_slow'
    """
    check_fraction("eps", eps)
    check_fraction("decay", decay)

    def init(rng, params, ctx):
        rate, by = (jnp.asarray(x, jnp.float32) for x in (eps, decay))
        return FastSlowState(rate, by, params, ctx.model_state)

    def begin(s, ts, ctx):
        return s, ts._replace(params=s.slow, model_state=s.model_state)

    def end(s, ts, ctx):
        rate = s.eps * s.decay**ctx.experience.index
        slow, model_state = between((s.slow, s.model_state), (ts.params, ts.model_state), rate)
        return s._replace(slow=slow, model_state=model_state), ts

    return Method("fast_slow", init=init, begin=begin, end=end, needs=("boundaries",))

"""NMC: nearest mean of features of a frozen network.

Janson et al., "A Simple Baseline that Questions the Use of Pretrained-Models in Continual Learning", 2022, arXiv
2210.04428. Written from the description; no code was opened.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core import Method, mask_logits
from ctrain_jax.ops import check_choice, unit


class NmcState(NamedTuple):
    """Sums from which the class means follow: their order does not matter, so nothing is forgotten."""

    sums: jax.Array  # float32 [C, D]
    counts: jax.Array  # float32 [C]


def nmc(*, metric: str = "l2", train: bool = False, fill: str = "step") -> Method:
    r"""Predict the class whose mean feature is nearest.

    With features :math:`\phi(x)` of the frozen network and :math:`\mu_c` the mean over the rows of class :math:`c`
    seen so far, the logit of a class is :math:`-\|\phi(x) - \mu_c\|_2^2`, or the cosine of the two. Classes without a
    row get a logit out of reach. There is no gradient step.

    Args:
      metric: "l2" or "cosine".
      train: let the optimizer train the network as well (the means then mix features of different moments).
      fill: "step" counts each batch; "end" counts all rows of an experience, once each, when it is over, as the network
        sees them then. "end" needs boundaries.

    Returns:
      The method; it needs features of the model.

    Raises:
      ValueError: an unknown metric or `fill`.

    Example:
      >>> nmc().needs
      ('classes', 'features')
    """
    check_choice("metric", metric, ("l2", "cosine"))
    check_choice("fill", fill, ("step", "end"))

    def init(rng, params, ctx):
        width = ctx.spec.outputs.features.shape[-1]
        return NmcState(jnp.zeros((ctx.spec.num_classes, width)), jnp.zeros(ctx.spec.num_classes))

    def counted(s, features, labels, weights):
        rows = jax.nn.one_hot(labels, len(s.counts)) * weights[:, None]
        return NmcState(s.sums + rows.T @ features, s.counts + rows.sum(0))

    def update(s, ts, ctx):
        if fill == "step":
            batch = ctx.incoming
            features = ctx.forward(ctx.params, batch["inputs"], task=batch["task"])[0].features
            s = counted(s, features, batch["labels"], batch["weights"])
        return s, ts if train else ts._replace(model_state=ctx.model_state)

    def end(s, ts, ctx):
        def add(s, batch, index):
            outputs, _ = ctx.forward(ts.params, batch["inputs"], model_state=ts.model_state, task=batch["task"])
            return counted(s, outputs.features, batch["labels"], batch["weights"])

        return ctx.scan(add, s), ts

    def predict(s, ctx):
        means = s.sums / jnp.maximum(s.counts, 1.0)[:, None]
        features = ctx.outputs.features
        if metric == "cosine":
            logits = unit(features) @ unit(means).T
        else:
            logits = 2 * features @ means.T - jnp.square(means).sum(-1) - jnp.square(features).sum(-1, keepdims=True)
        return ctx.outputs._replace(logits=mask_logits(logits, s.counts > 0))

    method = Method(
        "nmc",
        init=init,
        update=update,
        predict=predict,
        needs=("classes", "features"),
    )
    if fill == "end":
        method = method._replace(end=end, needs=("boundaries", *method.needs))
    return method if train else method._replace(optimizer=lambda tx: optax.set_to_zero())

"""CAT: the features of networks that are trained apart, side by side.

Zhang and Bottou, "Learning useful representations for shifting tasks and distributions", ICML 2023, arXiv 2212.07346.
Written from a description; of the authors' code (TjuJianyu/RRL) the concatenation and its classifier were opened, the
paper was not. Where we differ: the networks are drawn apart but see the same batches, in one program; where the authors
train a linear classifier with BatchNorm in front of it, ours is a ridge regression. `DISTILL_n` is `core.regression()`
from the same inputs to the concatenated features, standardised: the features of what is trained so are of one network.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.core import Method, Model, Outputs, Problem, mapped, mask_logits
from ctrain_jax.ops import LinearHead, check_positive, check_size, ridge


class CatState(NamedTuple):
    """The sums of ridge regression on the features and a constant 1, and its solution. W = num x D + 1."""

    gamma: jax.Array  # float32 []
    gram: jax.Array  # float32 [W, W]
    cross: jax.Array  # float32 [W, C]; the last row counts the rows of each class
    head: LinearHead  # [W - 1, C]


def cat(num: int = 4, *, gamma: float = 1.0, train: bool = False) -> Method:
    r"""Train some networks apart in the first experience, freeze them, and probe their features side by side.

    The networks :math:`\phi_1, \ldots, \phi_n` are copies of the model that are drawn apart; each has the loss that it
    would have alone, whatever the others do. The representation is :math:`\phi(x) = [\phi_1(x); \ldots; \phi_n(x)]`.
    When an experience is over, the head is the ridge regression

    .. math:: \min_{W, b} \sum_i \|W^\top \phi(x_i) + b - y_i\|_2^2 + n \gamma \|W\|_2^2

    of one-hot labels of all rows so far, from sums, so nothing is forgotten; :math:`n` in the ridge makes n equal
    networks answer as one does. Before the first experience is over the mean of the networks' logits answers.

    Parameters are the model's with a leading axis of networks, as those of `core.run_stream` over several seeds are. A
    start from trained variables has these n times. What clips by the norm of all gradients couples the networks.

    Args:
      num: networks; 2 to 10 in the authors' scripts.
      gamma: the ridge of one network.
      train: let the networks learn in later experiences, too (the sums then mix features of different moments).

    Returns:
      The method; it needs features of the model.

    Raises:
      ValueError: `num` below 1, a `gamma` of 0 or below; labels that are no classes.

    Example:
      >>> cat(2).needs
      ('boundaries', 'classes', 'features')
    """
    check_size("num", num)
    check_positive("gamma", gamma)

    def model(inner):
        def init(rng, inputs):
            return mapped(lambda key: inner.init(key, inputs))(jax.random.split(rng, num))

        def apply(variables, inputs, *, train=False, rng=None, task=None):
            keys = None if rng is None else jax.random.split(rng, num)

            def one(variables, key):
                return inner.apply(variables, inputs, train=train, rng=key, task=task)

            each, model_state = mapped(one)(variables, keys)
            each = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), each)
            features = None if each.features is None else each.features.reshape(len(inputs), -1)
            return Outputs(each.logits.mean(1), features, each), model_state

        return Model(init, apply)

    def problem(inner):
        def loss(outputs, batch):
            return jax.vmap(inner.loss, in_axes=(1, None), out_axes=1)(outputs.aux, batch).sum(1)

        return Problem(loss, inner.metrics)

    def init(rng, params, ctx):
        width, classes = ctx.spec.outputs.features.shape[-1], ctx.spec.num_classes
        head = LinearHead(jnp.zeros((width, classes)), jnp.zeros(classes))
        gram, cross = jnp.zeros((width + 1, width + 1)), jnp.zeros((width + 1, classes))
        return CatState(jnp.asarray(gamma, jnp.float32), gram, cross, head)

    def update(s, ts, ctx):
        learns = train or ctx.experience.index == 0
        new, old = (ts.params, ts.model_state), (ctx.params, ctx.model_state)
        params, model_state = jax.tree.map(lambda new, old: jnp.where(learns, new, old), new, old)
        return s, ts._replace(params=params, model_state=model_state)

    def end(s, ts, ctx):
        def add(sums, batch, b):
            features = ctx.forward(ts.params, batch["inputs"], task=batch["task"])[0].features
            # A row of weight 0 adds nothing; weights are 0 or 1 here.
            rows = with_one(features) * batch["weights"][:, None]
            return sums[0] + rows.T @ rows, sums[1] + rows.T @ jax.nn.one_hot(batch["labels"], ctx.spec.num_classes)

        gram, cross = ctx.scan(add, (s.gram, s.cross), size=512)
        return s._replace(gram=gram, cross=cross, head=probe(gram, cross, num * s.gamma)), ts

    def predict(s, ctx):
        seen = s.cross[-1] > 0
        answer = mask_logits(s.head(ctx.outputs.features), seen)
        return ctx.outputs._replace(logits=jnp.where(jnp.any(seen), answer, ctx.outputs.logits))

    return Method(
        "cat",
        model=model,
        problem=problem,
        init=init,
        update=update,
        end=end,
        predict=predict,
        needs=("boundaries", "classes", "features"),
    )


def with_one(features: jax.Array) -> jax.Array:
    """Features [B, D] and a constant 1."""
    return jnp.concatenate([features, jnp.ones_like(features[:, :1])], 1)


def probe(gram: jax.Array, cross: jax.Array, gamma: jax.typing.ArrayLike) -> LinearHead:
    """The head of ridge regression from sums over features `with_one`; its bias costs nothing."""
    solution = ridge(gram, cross, jnp.broadcast_to(gamma, len(gram)).at[-1].set(0.0))
    return LinearHead(solution[:-1], solution[-1])

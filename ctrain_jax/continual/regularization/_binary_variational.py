"""Binary variational: weights of +1 and -1 whose distribution is the prior of the next experience.

Li, Huang, Zou and Huang, "Statistical mechanics of continual learning: variational principle and mean-field potential",
2022, arXiv 2212.02846. Written from the abstract and from the equations of variational inference; neither the text nor
any code was opened. Where we differ: hidden layers are sampled one after the other, where the paper carries mean and
variance through all of them; the gradient of the fields is the plain one, for any optimizer of optax, not the natural
one; the mean-field theory of the learning curves is no part of this.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core import Method, Model, PyTree, Variables, tag
from ctrain_jax.ops import check_non_negative


class BinaryVariationalState(NamedTuple):
    """What is believed of the weights."""

    weight: jax.Array  # float32 []
    prior: PyTree  # for each parameter: of a kernel its fields as the experience before left them, 0 at first; else [0]


def binary_variational(weight: float = 1.0) -> Method:
    r"""Learn the distribution of binary weights; what it was after an experience is the prior of the next one.

    The kernels of Dense layers become fields :math:`\theta` of weights :math:`w = \pm 1` with
    :math:`q(w) \propto e^{\theta w}`, so that :math:`\mu = \tanh \theta` is their mean. For inputs :math:`x` `[N]` what
    a unit sums up is nearly normal, and is drawn anew for each row:

    .. math:: z = \frac{\mu \cdot x}{\sqrt N} + \epsilon \sqrt{\frac{(1 - \mu^2) \cdot x^2}{N}}, \qquad
              \epsilon \sim N(0, 1)

    To the loss, the mean over the batch of :math:`-\log p(y | x)`, is added, for an experience of :math:`n` rows,

    .. math:: \frac{\gamma}{n} \mathrm{KL}(q_\theta \| q_{\theta'}) = \frac{\gamma}{n} \sum_i (\theta_i - \theta'_i)
              \tanh \theta_i - \log \cosh \theta_i + \log \cosh \theta'_i

    with the fields :math:`\theta'` from the end of the experience before, 0 at first. A weight that is certain hardly
    moves. Outside of training :math:`\epsilon = 0`: the mean network answers.

    Biases are left out; other parameters (scales of a normalisation) are trained as they are, without a penalty. Fields
    begin at the kernels of the model, times :math:`\sqrt N`.

    Args:
      weight: gamma; 1 is Bayes' rule, 0 no prior at all.

    Returns:
      The method.

    Raises:
      ValueError: a negative `weight`; when the learner is made: a kernel that is of no Dense layer of a linen model.

    Example:
      >>> binary_variational(0.1).name
      'binary_variational'
    """
    check_non_negative("weight", weight)

    def model(inner):
        def init(rng, inputs):
            variables = inner.init(rng, inputs)
            seen: set[str] = set()
            jax.eval_shape(lambda v, x: _fields(inner, v, x, None, seen)[0], variables, inputs)
            leaves = jax.tree_util.tree_leaves_with_path(variables.params)
            other = [name for name in (_name(path) for path, _ in leaves) if _is_kernel(name) and name not in seen]
            if other or not seen:
                raise ValueError(
                    f"binary_variational has fields for kernels of Dense layers of linen models, got "
                    f"{', '.join(other) or 'no kernel'}: use a model of such layers."
                )

            def spread(path, leaf):
                return leaf * math.sqrt(leaf.shape[0]) if _name(path) in seen else leaf

            return variables._replace(params=jax.tree_util.tree_map_with_path(spread, variables.params))

        def apply(variables, inputs, *, train=False, rng=None, task=None):
            return _fields(inner, variables, inputs, rng if train else None, set(), train=train, rng=rng, task=task)

        return Model(init, apply)

    def init(rng, params, ctx):
        def flat(path, leaf):
            return jnp.zeros(leaf.shape if _is_kernel(_name(path)) else (0,), leaf.dtype)

        return BinaryVariationalState(jnp.float32(weight), jax.tree_util.tree_map_with_path(flat, params))

    def loss(s, params, ctx):
        parts = jax.tree.map(lambda theta, prior: kl(theta, prior) if prior.size else 0.0, params, s.prior)
        return s.weight * optax.tree.sum(parts) / ctx.experience.size, {}

    def end(s, ts, ctx):
        prior = jax.tree.map(lambda theta, prior: theta if prior.size else prior, ts.params, s.prior)
        return s._replace(prior=prior), ts

    return Method("binary_variational", init=init, end=end, loss=loss, model=model, needs=("boundaries",))


def kl(theta: jax.Array, prior: jax.Array) -> jax.Array:
    """The divergence of weights with fields `theta` from weights with fields `prior`, summed over them."""
    # What is left of these differences in bfloat16 is mostly rounding.
    theta, prior = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (theta, prior))
    return jnp.sum((theta - prior) * jnp.tanh(theta) - _log_cosh(theta) + _log_cosh(prior))


def moments(theta: jax.Array, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation [..., d_out] of what units of fields [d_in, d_out] sum up."""
    mean, number = jnp.tanh(theta), theta.shape[0]
    variance = jnp.square(inputs) @ (1 - jnp.square(mean)) / number
    return inputs @ mean / math.sqrt(number), jnp.sqrt(jnp.maximum(variance, 1e-12))


def _fields(inner: Model, variables: Variables, inputs: jax.Array, noise: jax.Array | None, seen: set[str], **options):
    """`inner` with units of binary weights in its Dense layers, whose kernels' names are added to `seen`."""
    import flax.linen as nn

    leaves = jax.tree_util.tree_leaves_with_path(variables.params)
    kernels = {_name(path): leaf for path, leaf in leaves}
    calls: list[str] = []

    def sum_up(next_call, args, kwargs, context):
        name = ".".join((*context.module.path, "kernel"))
        if context.method_name != "__call__" or not isinstance(context.module, nn.Dense) or name not in kernels:
            return next_call(*args, **kwargs)
        # A kernel that a lifted layer (nn.scan) stacks has an axis that the call does not see.
        if kernels[name].ndim != 2:
            return next_call(*args, **kwargs)
        calls.append(name)
        seen.add(name)
        x = next(iter((*args, *kwargs.values())))
        mean, deviation = moments(kernels[name], x)
        if noise is None:
            return mean
        drawn = jax.random.normal(tag(noise, f"{name} {calls.count(name)}"), mean.shape, mean.dtype)
        return mean + deviation * drawn

    with nn.intercept_methods(sum_up):
        return inner.apply(variables, inputs, **options)


def _log_cosh(x: jax.Array) -> jax.Array:
    return jnp.logaddexp(x, -x) - math.log(2)


def _is_kernel(name: str) -> bool:
    return name.split(".")[-1] == "kernel"


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")

"""Expert Gate: a network for each experience, and an autoencoder for each that tells whose row it is.

Aljundi, Chakravarty and Tuytelaars, "Expert Gate: Lifelong Learning with a Network of Experts", CVPR 2017,
arXiv 1611.06194; a chapter of Aljundi, "Continual Learning in Neural Networks", 2019, arXiv 1910.02718.
Opened at the source: the authors' code (rahafaljundi/Expert-Gate), not the papers.
Where we differ: the autoencoders see inputs, squashed by one mean and deviation of the first experience, theirs
features of a pre-trained network, by those of ImageNet; they are trained by Adam beside the expert, theirs by AdaGrad
with weight decay, apart from it and from sparse weights; all experts answer, weighed by the probabilities of their
gates, where theirs is the likeliest; the nearest expert is found on training rows, theirs on validation rows. A new
expert is always fine-tuned from the nearest one, never distilled from it: `lwf` in a chain distils from the latest
expert.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.continual.architecture._tasks import copies
from ctrain_jax.core import Method, Outputs, Variables, mask_logits, weighted_mean
from ctrain_jax.models import MLP
from ctrain_jax.ops import check_positive, check_size, restart


class ExpertGateState(NamedTuple):
    """What each experience left, of T."""

    temperature: jax.Array  # float32 []
    experts: Variables  # params and model_state, [T, ...]
    gates: optax.Params  # autoencoders, [T, ...]
    classes: jax.Array  # bool [T, C]
    centre: jax.Array  # float32 []: mean of the inputs of the first experience
    scale: jax.Array  # float32 []: their standard deviation
    gate: optax.Params  # the autoencoder that is trained
    opt_state: optax.OptState  # of it


def expert_gate(*, code: int = 100, temperature: float = 2.0, learning_rate: float = 1e-3) -> Method:
    r"""Keep a network for each experience, and ask the one whose autoencoder knows the row best.

    Beside the network an autoencoder of one hidden layer learns, by Adam, the inputs of the experience. With
    :math:`\hat{x} = \sigma((x - m) / s)`, the mean :math:`m` and standard deviation :math:`s` of all numbers in the
    inputs of the first experience, a row costs

    .. math:: \mathrm{BCE}(\sigma(W_2 \max(0, W_1 \hat{x} + b_1) + b_2), \hat{x})

    When the experience is over both are put aside. With the squared error :math:`e_t(x)` of the :math:`t`-th
    autoencoder and the logits :math:`f_t` of its expert, among the classes of its experience, an answer is

    .. math:: \log \sum_t p_t(x) \, \mathrm{softmax}(f_t(x)), \qquad p(x) = \mathrm{softmax}(-e(x) / T)

    A new experience starts, with a new optimizer, from the expert whose autoencoder has the least error on its rows.

    Args:
      code: width of the hidden layer; 500 in the authors' code.
      temperature: of the gate, T; towards 0 the expert with the least error answers alone.
      learning_rate: of the autoencoder's Adam.

    Returns:
      The method. It needs no task of a row; an answer costs a forward pass of each expert.

    Raises:
      ValueError: `code` below 1, a `temperature` or `learning_rate` of 0 or below; labels that are no classes.

    Example:
      >>> expert_gate(code=50).needs
      ('boundaries', 'classes')
    """
    check_size("code", code)
    check_positive("temperature", temperature)
    check_positive("learning_rate", learning_rate)
    tx = optax.adam(learning_rate)

    def net(inputs):
        return MLP(inputs[0].size, hidden=(code,))

    def drawn(rng, inputs):
        return net(inputs).init(rng, jnp.zeros((1, inputs[0].size)))["params"]

    def seen(s, inputs):
        return jax.nn.sigmoid((inputs.reshape(len(inputs), -1) - s.centre) / s.scale)

    def rebuilt(gate, rows):
        outputs: Any = net(rows).apply({"params": gate}, rows)
        return outputs.logits

    def errors(s, gates, inputs):
        """float32 [T, B]."""
        rows = seen(s, inputs)
        return jax.vmap(lambda gate: jnp.square(jax.nn.sigmoid(rebuilt(gate, rows)) - rows).sum(-1))(gates)

    def init(rng, params, ctx):
        number, inputs = ctx.spec.num_experiences, jnp.zeros(ctx.spec.batch["inputs"].shape)
        gate = drawn(rng, inputs)
        return ExpertGateState(
            jnp.asarray(temperature, jnp.float32),
            copies(Variables(params, ctx.model_state), number),
            copies(gate, number),
            jnp.zeros((number, ctx.spec.num_classes), bool),
            jnp.float32(0),
            jnp.float32(1),
            gate,
            tx.init(gate),
        )

    def begin(s, ts, ctx):
        index = ctx.experience.index

        def first(s):
            def add(sums, batch, b):
                x = batch["inputs"].astype(jnp.float32)
                weights = batch["weights"].reshape(-1, *[1] * (x.ndim - 1))
                size = batch["weights"].sum() * x[0].size
                return sums + jnp.stack([size, jnp.sum(weights * x), jnp.sum(weights * jnp.square(x))])

            size, total, squares = ctx.scan(add, jnp.zeros(3))
            centre = total / size
            scale = jnp.sqrt(jnp.maximum(squares / size - jnp.square(centre), 1e-12))
            return s._replace(centre=centre, scale=scale), ts

        def later(s):
            def add(sums, batch, b):
                return sums + errors(s, s.gates, batch["inputs"]) @ batch["weights"]

            sums = ctx.scan(add, jnp.zeros(ctx.spec.num_experiences))
            nearest = jnp.argmin(jnp.where(jnp.arange(len(sums)) < index, sums, jnp.inf))
            expert = jax.tree.map(lambda bank: bank[nearest], s.experts)
            return s, ts._replace(params=expert.params, model_state=expert.model_state)

        s, ts = jax.lax.cond(index == 0, first, later, s)
        gate = drawn(ctx.rng, jnp.zeros(ctx.spec.batch["inputs"].shape))
        s = s._replace(gate=gate, opt_state=tx.init(gate), classes=s.classes.at[index].set(ctx.experience.classes))
        return s, restart(ts, ctx)

    def update(s, ts, ctx):
        rows = seen(s, ctx.incoming["inputs"])

        def cost(gate):
            fit = optax.sigmoid_binary_cross_entropy(rebuilt(gate, rows), rows).sum(-1)
            return weighted_mean(fit, ctx.incoming["weights"])

        updates, opt_state = tx.update(jax.grad(cost)(s.gate), s.opt_state, s.gate)
        return s._replace(gate=optax.apply_updates(s.gate, updates), opt_state=opt_state), ts

    def put(s, params, model_state, index):
        def one(bank, leaf):
            return bank.at[index].set(leaf)

        experts = jax.tree.map(one, s.experts, Variables(params, model_state))
        return s._replace(experts=experts, gates=jax.tree.map(one, s.gates, s.gate))

    def end(s, ts, ctx):
        return put(s, ts.params, ts.model_state, ctx.experience.index), ts

    def predict(s, ctx):
        inputs, index = ctx.batch["inputs"], ctx.experience.index
        s = put(s, ctx.params, ctx.model_state, index)
        known = jnp.arange(len(s.classes)) <= index
        gates = jnp.where(known[:, None], -errors(s, s.gates, inputs) / s.temperature, -jnp.inf)

        def one(expert):
            task = ctx.batch.get("task")
            return ctx.forward(expert.params, inputs, model_state=expert.model_state, task=task)[0]

        outputs: Outputs = jax.vmap(one)(s.experts)
        answers = jax.nn.log_softmax(mask_logits(outputs.logits, s.classes[:, None]))
        logits = jax.nn.logsumexp(jax.nn.log_softmax(gates, axis=0)[..., None] + answers, axis=0)
        chosen = jnp.argmax(gates, axis=0), jnp.arange(len(inputs))
        return jax.tree.map(lambda bank: bank[chosen], outputs)._replace(logits=logits)

    return Method(
        "expert_gate",
        init=init,
        begin=begin,
        update=update,
        end=end,
        predict=predict,
        needs=("boundaries", "classes"),
    )

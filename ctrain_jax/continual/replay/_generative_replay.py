"""Generative replay (DGR).

Shin, Lee, Kim and Kim, "Continual Learning with Deep Generative Replay", NeurIPS 2017, arXiv 1705.08690; the generator
is a variational autoencoder, Kingma and Welling, "Auto-Encoding Variational Bayes", 2013, arXiv 1312.6114, as in van de
Ven and Tolias, whose code (GMvandeVen/continual-learning) was opened; the papers were not. Where we differ: a generated
row belongs to one earlier task, drawn at random, where tasks have heads of their own (their code asks for each); its
label is among the classes seen before.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.core import Method, Variables, mask_logits, tag, weighted_mean
from ctrain_jax.models import MLP
from ctrain_jax.ops import append_rows, check_choice, check_positive, check_size


class GenerativeReplayState(NamedTuple):
    """The generator that is trained, and generator and network before this experience."""

    generator: optax.Params  # {"encoder", "decoder"}
    opt_state: optax.OptState  # of the generator
    old: optax.Params  # like the generator's decoder: as the experience before left it
    teacher: Variables  # params and model_state as the experience before left them
    heads: jax.Array  # bool [T, C], the classes of each experience that is over


def generative_replay(
    *,
    latent: int = 100,
    hidden: tuple[int, ...] = (400, 400),
    learning_rate: float = 1e-3,
    weighting: str = "experiences",
) -> Method:
    r"""Replay rows that a generator makes up, with the labels that the network gave them before this experience.

    A variational autoencoder is trained beside the network, by Adam, on the rows that the network sees: incoming ones
    and those that its own copy of before the experience generates. With the encoder's :math:`\mu, \sigma` and the
    decoder's :math:`d`, a row costs

    .. math:: \mathrm{BCE}(\sigma(d(\mu + \sigma \epsilon)), x)
              + \tfrac12 \sum_j (\mu_j^2 + \sigma_j^2 - \log \sigma_j^2 - 1), \qquad \epsilon \sim N(0, I)

    Each step draws as many latent codes as rows arrive and appends what the old decoder makes of them; the label is the
    class, of those seen before, that the old network finds most likely. In the first experience they weigh 0.

    Args:
      latent: dimensions of the code.
      hidden: widths of the hidden layers of encoder and decoder.
      learning_rate: of the generator's Adam.
      weighting: "experiences": in the :math:`t`-th, incoming and generated rows count as :math:`1 : t - 1`; "rows":
        alike.

    Returns:
      The method. Inputs are in [0, 1]: a source without mean and std.

    Raises:
      ValueError: a size below 1, a `learning_rate` of 0 or below, an unknown `weighting`.

    Example:
      >>> generative_replay(latent=20).name
      'generative_replay'
    """
    check_size("latent", latent)
    for width in hidden:
        check_size("Each width in hidden", width)
    check_positive("learning_rate", learning_rate)
    check_choice("weighting", weighting, ("experiences", "rows"))
    encoder, tx = MLP(2 * latent, hidden=hidden), optax.adam(learning_rate)

    def decoder(inputs):
        return MLP(inputs[0].size, hidden=hidden)

    def answers(net: MLP, params: Any, inputs: jax.Array) -> jax.Array:
        outputs: Any = net.apply({"params": params}, inputs)
        return outputs.logits

    def init(rng, params, ctx):
        shape = ctx.spec.batch["inputs"].shape
        example = jnp.zeros((1, *shape[1:]))
        keys = jax.random.split(rng)
        generator = {
            "encoder": encoder.init(keys[0], example)["params"],
            "decoder": decoder(example).init(keys[1], jnp.zeros((1, latent)))["params"],
        }
        heads = jnp.zeros((ctx.spec.num_experiences, ctx.spec.num_classes), bool)
        teacher = Variables(params, ctx.model_state)
        return GenerativeReplayState(generator, tx.init(generator), generator["decoder"], teacher, heads)

    def begin(s, ts, ctx):
        return s._replace(old=s.generator["decoder"], teacher=Variables(ts.params, ts.model_state)), ts

    def augment(s, batch, ctx):
        incoming, spec = ctx.incoming, ctx.spec
        codes = jax.random.normal(tag(ctx.rng, "codes"), (spec.batch_size, latent))
        drawn = answers(decoder(incoming["inputs"]), s.old, codes)
        earlier = ctx.experience.index
        # Rows of weight 0 are seen by BatchNorm: let them be real ones.
        made_up = jax.nn.sigmoid(drawn).reshape(incoming["inputs"].shape)
        inputs = jnp.where(earlier > 0, made_up, incoming["inputs"])

        count = earlier if weighting == "experiences" else (earlier > 0)
        made = incoming | {"inputs": inputs, "weights": incoming["weights"] * count}
        known = jnp.broadcast_to(s.heads.any(0), (spec.batch_size, spec.num_classes))
        if spec.heads == "task":
            of = jax.random.randint(tag(ctx.rng, "task"), (spec.batch_size,), 0, jnp.maximum(earlier, 1))
            known = s.heads[of]
            made |= {"task": of, "classes": known}
        answer, _ = ctx.forward(s.teacher.params, inputs, model_state=s.teacher.model_state, task=made["task"])
        made["labels"] = mask_logits(answer.logits, known).argmax(-1).astype(incoming["labels"].dtype)
        return append_rows(batch, made)

    def update(s, ts, ctx):
        inputs, weights = ctx.batch["inputs"], ctx.batch["weights"]

        def cost(generator):
            mean, log_variance = jnp.split(answers(encoder, generator["encoder"], inputs), 2, axis=-1)
            codes = mean + jnp.exp(log_variance / 2) * jax.random.normal(ctx.rng, mean.shape)
            drawn = answers(decoder(inputs), generator["decoder"], codes)
            flat = inputs.reshape(drawn.shape)
            fit = optax.sigmoid_binary_cross_entropy(drawn, flat).sum(-1)
            prior = 0.5 * jnp.sum(jnp.square(mean) + jnp.exp(log_variance) - log_variance - 1, axis=-1)
            return weighted_mean(fit + prior, weights)

        updates, opt_state = tx.update(jax.grad(cost)(s.generator), s.opt_state, s.generator)
        return s._replace(generator=optax.apply_updates(s.generator, updates), opt_state=opt_state), ts

    def end(s, ts, ctx):
        return s._replace(heads=s.heads.at[ctx.experience.index].set(ctx.experience.classes)), ts

    return Method(
        "generative_replay",
        init=init,
        begin=begin,
        augment=augment,
        update=update,
        end=end,
        needs=("boundaries", "classes"),
    )

"""DKVB: the discrete key-value bottleneck.

Träuble et al., "Discrete Key-Value Bottleneck", ICML 2023, arXiv 2207.11240. Written from the description; of code,
lucidrains/discrete-key-value-bottleneck-pytorch was opened, the authors' was not. Where we differ: a key moves towards
the mean of its rows in the batch, where that code keeps moving averages of their number and of their sum; values begin
at 0, where it draws them; one rule of re-seeding serves all keys, after each pass.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.core import Method, Model, Variables
from ctrain_jax.ops import check_fraction, check_size, each_row, permute_index

_CHUNK = 256  # rows that are encoded, or assigned to keys, at a time


def dkvb(
    *,
    codebooks: int = 64,
    keys: int = 256,
    key_dim: int = 8,
    unlabeled: jax.Array | np.ndarray | None = None,
    passes: int = 10,
    decay: float = 0.95,
) -> Method:
    r"""Freeze the network; its features look up values in codebooks of frozen keys, and only the values learn.

    Fixed random matrices :math:`R_c` project the features :math:`h(x)` once for each of the C codebooks; the nearest
    key fetches a value with an entry for each class, and the mean of the C values are the logits:

    .. math:: z_c = R_c \, h(x), \qquad j_c = \arg\min_j \|z_c - k_{c,j}\|, \qquad
              \mathrm{logits} = \frac1C \sum_c v_{c,j_c}

    A step has a gradient for the values that its batch fetched and no others: what rows far away have learned stays.
    Keys start on random rows. In each pass over these a key moves, batch by batch, towards the mean of the rows that
    it is nearest to, :math:`k \leftarrow \alpha k + (1 - \alpha) \bar z`, and after it one that no row was nearest to
    starts again on a random row. Then they are frozen.

    Rates of SGD up to about C are stable, as the mean divides gradients by C. Small ones (0.1 to 0.3 in the paper) add
    up what rows say, whatever their order; large ones fit more closely, and most of all what came last. Momentum, Adam
    and weight decay move values that the batch did not fetch.

    Args:
      codebooks: C; 256 in the paper.
      keys: in each codebook; 4096 in the paper.
      key_dim: dimension of a projection.
      unlabeled: inputs [N, ...] as the network is given them, some thousands, on which keys are fitted before the
        stream starts: the paper's way, with rows of another data set. None fits them to the rows of the first
        experience when it begins.
      passes: over the rows that keys are fitted to.
      decay: :math:`\alpha`.

    Returns:
      The method; it needs features of the model and, without `unlabeled`, boundaries. The parameters are `values`
      [C, keys, classes], from 0; `frozen` holds the network, `projections` [C, D, key_dim] and `keys`
      [C, keys, key_dim]. Statistics of BatchNorm stay.

    Raises:
      ValueError: a size below 1, a `decay` outside of [0, 1]; when a learner is made, `unlabeled` rows of another
        shape than the stream's, or integers where it has floats, or a model without features.

    Example:
      >>> dkvb(unlabeled=np.zeros((100, 28, 28))).needs
      ('features',)
    """
    for name, value in (("codebooks", codebooks), ("keys", keys), ("key_dim", key_dim), ("passes", passes)):
        check_size(name, value)
    check_fraction("decay", decay)

    def model(inner):
        def encode(frozen, model_state, inputs, task=None):
            return inner.apply(Variables(frozen["network"], model_state, frozen["base"]), inputs, task=task)[0]

        def init(rng, inputs):
            made = inner.init(rng, inputs)
            frozen = {"network": made.params, "base": made.frozen}
            shapes = jax.eval_shape(encode, frozen, made.model_state, inputs)
            if shapes.features is None:
                raise ValueError("dkvb needs features, which the model does not return: return logits and features.")
            drawing, fitting = jax.random.split(jax.random.fold_in(rng, 1))
            width = shapes.features.shape[-1]
            frozen["projections"] = jax.random.normal(drawing, (codebooks, width, key_dim)) / math.sqrt(width)
            frozen["keys"] = jnp.zeros((codebooks, keys, key_dim))
            if unlabeled is not None:
                if len(unlabeled) < 1 or unlabeled.shape[1:] != inputs.shape[1:]:
                    raise ValueError(
                        f"dkvb expects unlabeled [N, {', '.join(map(str, inputs.shape[1:]))}], as the network is given "
                        f"inputs, got {list(unlabeled.shape)}."
                    )
                rows = jnp.asarray(unlabeled)
                if jnp.issubdtype(inputs.dtype, jnp.floating) and not jnp.issubdtype(rows.dtype, jnp.floating):
                    raise ValueError(
                        f"dkvb expects unlabeled as floats, as the network is given inputs, got {rows.dtype}: divide "
                        "images of uint8 by 255, and normalise them as the stream does."
                    )
                rows = rows.astype(inputs.dtype)
                features = jax.lax.map(
                    lambda row: encode(frozen, made.model_state, row[None]).features[0], rows, batch_size=_CHUNK
                )
                frozen["keys"] = fit_keys(fitting, features, len(rows), frozen["projections"], keys, passes, decay)
            values = jnp.zeros((codebooks, keys, shapes.logits.shape[-1]))
            return Variables({"values": values}, made.model_state, frozen)

        def apply(variables, inputs, *, train=False, rng=None, task=None):
            del train, rng
            frozen = variables.frozen
            outputs = encode(frozen, variables.model_state, inputs, task)
            chosen = nearest(project(outputs.features, frozen["projections"]), frozen["keys"])
            return outputs._replace(logits=fetch(variables.params["values"], chosen)), variables.model_state

        return Model(init, apply)

    def begin(s, ts, ctx):
        def seen(batch):
            return ctx.forward(ts.params, batch["inputs"], model_state=ts.model_state, task=batch["task"])[0].features

        def fitted():
            features = each_row(ctx, seen, jnp.zeros(ctx.spec.outputs.features.shape[-1]))
            projections = ts.frozen["projections"]
            return fit_keys(ctx.rng, features, ctx.experience.size, projections, keys, passes, decay)

        book = jax.lax.cond(ctx.experience.index == 0, fitted, lambda: ts.frozen["keys"])
        return s, ts._replace(frozen=ts.frozen | {"keys": book})

    if unlabeled is not None:
        return Method("dkvb", model=model, needs=("features",))
    return Method("dkvb", begin=begin, model=model, needs=("boundaries", "features"))


def project(features: jax.Array, projections: jax.Array) -> jax.Array:
    """Features [B, D] as each codebook [C, D, d] sees them: [B, C, d]."""
    return jnp.einsum("bi,cid->bcd", features.astype(jnp.float32), projections, precision="highest")


def nearest(seen: jax.Array, keys: jax.Array) -> jax.Array:
    """int32 [B, C]: the key [C, K, d] of each codebook that is nearest to what it sees [B, C, d]."""
    products = jnp.einsum("bcd,ckd->bck", seen, keys, precision="highest")  # differences of near keys are small
    return jnp.argmin(jnp.square(keys).sum(-1) - 2 * products, axis=-1)


def fetch(values: jax.Array, chosen: jax.Array) -> jax.Array:
    """The mean over codebooks of the chosen [B, C] values [C, K, classes]: [B, classes]."""
    return values[jnp.arange(len(values)), chosen].mean(1)


def fit_keys(
    rng: jax.Array,
    features: jax.Array,
    size: jax.Array | int,
    projections: jax.Array,
    keys: int,
    passes: int,
    decay: float,
) -> jax.Array:
    """Keys [C, keys, d] among the first `size` rows of features [N, D], as the projections [C, D, d] see them."""
    codebooks = len(projections)

    def seeds(key):
        place = permute_index(key, jnp.arange(keys, dtype=jnp.int32) % size, size)
        return project(features[place], projections).swapaxes(0, 1)

    def sums(rows, chosen):
        """[C, keys, ...] from rows [B, C, ...]."""
        slots = (chosen + keys * jnp.arange(codebooks)).reshape(-1)
        found = jax.ops.segment_sum(rows.reshape(-1, *rows.shape[2:]), slots, codebooks * keys)
        return found.reshape(codebooks, keys, *rows.shape[2:])

    def one_pass(p, book):
        order, again = jax.random.split(jax.random.fold_in(rng, p + 1))

        def move(b, carry):
            book, used = carry
            at = b * _CHUNK + jnp.arange(_CHUNK, dtype=jnp.int32)
            seen = project(features[permute_index(order, at % size, size)], projections)
            chosen = nearest(seen, book)
            real = jnp.broadcast_to((at < size).astype(jnp.float32)[:, None], chosen.shape)
            number = sums(real, chosen)[..., None]
            mean = sums(seen * real[..., None], chosen) / jnp.maximum(number, 1.0)
            moved = jnp.where(number > 0, decay * book + (1 - decay) * mean, book)
            return moved, used | (number > 0)

        start = (book, jnp.zeros((codebooks, keys, 1), bool))
        book, used = jax.lax.fori_loop(0, -(-size // _CHUNK), move, start)
        return jnp.where(used, book, seeds(again))

    return jax.lax.fori_loop(0, passes, one_pass, seeds(jax.random.fold_in(rng, 0)))

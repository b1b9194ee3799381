"""EAR: a frozen encoder, a gate that tells when a domain is new, and a small adaptor and a head for each of them.

Daniels, Hu, Lomnitz, Miller, Raghavan, Zhang, Piacentino and Zhang, "Efficient Model Adaptation for Continual Learning
at the Edge", 2023, arXiv 2308.02084: Encoder-Adaptor-Reconfigurator. Of the paper the abstract was opened alone, of
code nothing; the gate, the choice and the routing are written from a description of them. Its proxy for the choice is
not known to us: here that of NASWOT (Mellor, Turner, Storkey and Crowley, ICML 2021, arXiv 2006.04647). Where we
differ, as far as the description tells: codes are of the features alone, less their mean in the first experience, not
of several layers; there is a prototype for each class of a domain; classes that are new in a domain that is known get a
head on top of its adaptor.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.continual._classes import told_apart
from ctrain_jax.continual._head import check_head, linear_head
from ctrain_jax.continual.architecture._tasks import copies, only
from ctrain_jax.core import Method, Model, Outputs, PyTree, Variables, mask_logits
from ctrain_jax.ops import (
    check_positive,
    check_size,
    check_wrapped,
    each_row,
    hdc_encode,
    naswot,
    permute_index,
    restart,
    unit,
)

Adaptor = list[list[tuple[jax.Array, jax.Array]]]
"""Kernels and biases of the layers of each candidate."""


class EarState(NamedTuple):
    """The domains so far, of K, and what tells them apart by codes of H entries."""

    threshold: jax.Array  # float32 []
    projection: jax.Array  # int8 [D, H], of features to codes
    centre: jax.Array  # float32 [D], mean of the features of the first experience
    prototypes: jax.Array  # float32 [K, C, H], of length 1; 0 where a domain does not have the class
    mean: jax.Array  # float32 [K], of the largest cosine of a row of the domain
    scale: jax.Array  # float32 [K], one over its deviation
    classes: jax.Array  # bool [K, C]
    parts: PyTree  # like params, [K, ...]
    choices: jax.Array  # int32 [K], which candidate; -1: no adaptor
    domains: jax.Array  # int32 [], how many, with the one that is being learned
    learns: jax.Array  # bool [], whether one is: a head
    adapts: jax.Array  # bool [], whether its adaptor is, too


def ear(
    *,
    max_domains: int = 10,
    dim: int = 10_000,
    threshold: float = 1.0,
    space: Sequence[Sequence[int]] = ((64,), (32, 32), (16, 16, 16, 16)),
    rows: int = 32,
    adapt_first: bool = False,
) -> Method:
    r"""Freeze an encoder; a domain that it has not seen gets an adaptor between encoder and head, which finds its rows.

    With features :math:`z`, codes :math:`h = \mathrm{sign}(P^\top (z - \bar z))` by random signs P, and a prototype
    :math:`q_{kc}`, the sum of the codes of a class in a domain, brought to length 1, a row is as near to a domain as

    .. math:: s_k = \max_c \cos(h, q_{kc})

    An experience is of a new domain where the mean of :math:`\max_k (s_k - \mu_k) / \sigma_k` over its rows is below
    `-threshold`, with mean and deviation of :math:`s_k` over rows of the domain, of each without its own part in
    :math:`q_{kc}`. It gets an adaptor

    .. math:: a(z) = z + W_n \max(0, \ldots W_2 \max(0, W_1 z))

    with the widths of the candidate in `space` that scores best untrained, by `ops.naswot` on `rows` rows, and a head
    that starts from that of the nearest domain. Both are trained; the encoder and what belongs to other domains are
    not. Where only classes are new, a head is trained on top of the nearest adaptor; where nothing is, nothing is. A
    row is answered by the domain that it is nearest to, among the classes of that.

    Start from a trained network: `core.run_stream(learner, variables=...)`.

    Args:
      max_domains: K, of which all have room from the start; what comes when all are taken is not learned.
      dim: H. Prototypes take K C H numbers.
      threshold: how many deviations off rows must be on average.
      space: hidden widths of each candidate. The score grows with the number of units: give them as many.
      rows: of an experience, on which candidates are scored; where it has fewer some come twice.
      adapt_first: whether the first domain gets an adaptor as well, as for an encoder of something else.

    Returns:
      The method. In a chain it stands before other methods that change the model, and after those that append rows.
      `params` is `{"adaptor": ..., "head": ...}` of the domain that is being learned.

    Raises:
      ValueError: a size below 1, a `threshold` of 0 or below, no candidate or one without a layer; when a learner is
        started, a network without features or a last layer `head`, labels that are no classes, or another model around
        its own.

    Example:
      >>> ear(threshold=2.0).needs
      ('boundaries', 'classes', 'features')

    References:
      Daniels et al. 2023, arXiv 2308.02084.
    """
    for name, value in (("max_domains", max_domains), ("dim", dim), ("rows", rows)):
        check_size(name, value)
    check_positive("threshold", threshold)
    if not space or not all(space):
        raise ValueError(
            f"ear: space expects hidden widths of at least one candidate, as ((64,), (32, 32)), got {space!r}."
        )
    for width in (width for candidate in space for width in candidate):
        check_size("Each width in space", width)

    def drawn(rng: jax.Array, width: int) -> Adaptor:
        adaptor = []
        for k, candidate in enumerate(space):
            sizes = (width, *candidate, width)
            keys = jax.random.split(jax.random.fold_in(rng, k), len(sizes) - 1)
            layers = [
                (jax.random.normal(key, (a, b)) * math.sqrt(2 / a), jnp.zeros(b))
                for key, a, b in zip(keys, sizes, sizes[1:], strict=False)
            ]
            adaptor.append([*layers[:-1], jax.tree.map(jnp.zeros_like, layers[-1])])
        return adaptor

    def model(inner: Model) -> Model:
        def init(rng, inputs):
            made = inner.init(rng, inputs)
            width = linear_head(made.params, "ear").kernel.shape[0]
            params = {"adaptor": drawn(jax.random.fold_in(rng, 1), width), "head": made.params["head"]}
            frozen = {"params": made.params, "frozen": made.frozen, "choice": jnp.int32(-1)}
            return Variables(params, made.model_state, frozen)

        def apply(variables, inputs, *, train=False, rng=None, task=None):
            frozen = variables.frozen
            base = Variables(frozen["params"], variables.model_state, frozen["frozen"])
            # BatchNorm of the encoder stays as well.
            outputs, _ = inner.apply(base, inputs, train=False, task=task)
            features: Any = outputs.features
            logits, adapted = answered(variables.params, frozen["choice"], features)
            return Outputs(logits, adapted, {"encoded": features}), variables.model_state

        return Model(init, apply)

    def encoded(ctx, inputs, task) -> jax.Array:
        return ctx.forward(ctx.params, inputs, task=task)[0].aux["encoded"].astype(jnp.float32)

    def nearness(s: EarState, features: jax.Array) -> jax.Array:
        """float32 [B, K], of domains so far."""
        codes = hdc_encode(features - s.centre, s.projection)
        cosines = jnp.einsum("bh,kch->bkc", codes, s.prototypes) / math.sqrt(dim)
        near = jnp.where(s.classes, cosines, -jnp.inf).max(-1)
        return jnp.where(jnp.arange(max_domains) < s.domains, near, -2.0)

    def init(rng, params, ctx):
        check_wrapped("ear", ctx.frozen, "choice")
        check_head(params, ctx, "ear")
        width, classes = linear_head(params, "ear").kernel.shape
        return EarState(
            jnp.asarray(threshold, jnp.float32),
            jax.random.rademacher(rng, (width, dim), jnp.int8),
            jnp.zeros(width),
            jnp.zeros((max_domains, classes, dim)),
            jnp.zeros(max_domains),
            jnp.ones(max_domains),
            jnp.zeros((max_domains, classes), bool),
            copies(params, max_domains),
            jnp.full(max_domains, -1, jnp.int32),
            jnp.int32(0),
            jnp.bool_(False),
            jnp.bool_(False),
        )

    def begin(s, ts, ctx):
        slots, size = jnp.arange(max_domains), ctx.experience.size
        many = s.classes.shape[1]

        def see(batch):
            return encoded(ctx, batch["inputs"], batch["task"]), batch["labels"]

        features, labels = each_row(ctx, see, (jnp.zeros(s.centre.shape), jnp.int32(many)))
        over = _in_chunks(features, labels, many)
        first = s.domains == 0
        s = s._replace(centre=jnp.where(first, features.sum(0) / size, s.centre))

        def look(found, features, mine):
            near, real = nearness(s, features), mine.sum(-1)
            off = jnp.where(slots < s.domains, (near - s.mean) * s.scale, -jnp.inf).max(-1)
            off = jnp.where(first | (real == 0), 0, off).sum()
            return (
                found[0] + real @ near,
                found[1] + off,
                found[2] + mine.T @ hdc_encode(features - s.centre, s.projection),
            )

        near, off, codes = over(look, (jnp.zeros(max_domains), jnp.zeros(()), jnp.zeros(s.prototypes.shape[1:])))
        nearest = jnp.argmax(near)
        strange = jnp.where(first, adapt_first, off / size < -s.threshold)
        fresh = jnp.any(ctx.experience.classes & ~s.classes.any(0))
        learns = (first | strange | fresh) & (s.domains < max_domains)
        mine = (slots == s.domains) & learns

        def put(bank, leaf):
            return jnp.where(mine.reshape(-1, *[1] * (bank.ndim - 1)), leaf, bank)

        new = drawn(ctx.rng, len(s.centre))
        old = jax.tree.map(lambda bank: bank[nearest], s.parts)
        adaptor = jax.tree.map(lambda a, b: jnp.where(strange | first, a, b), new, old["adaptor"])
        head = jax.tree.map(lambda a, b: jnp.where(first, a, b), ts.params["head"], old["head"])
        known = jnp.where(first, -1, s.choices[nearest])
        choice = jnp.where(strange, _best(new, features[permute_index(ctx.rng, jnp.arange(rows) % size, size)]), known)
        s = s._replace(
            prototypes=put(s.prototypes, unit(codes)),
            classes=put(s.classes, ctx.experience.classes),
            choices=put(s.choices, choice),
            domains=s.domains + learns,
            learns=learns,
            adapts=learns & strange,
        )

        def own(sums, features, mine):
            # A row is nearer to a sum that it is part of than others of its kind, where there are few.
            along = hdc_encode(features - s.centre, s.projection) @ codes.T
            length = jnp.square(codes).sum(-1) - 2 * mine * along + mine * dim
            near = (along - mine * dim) / jnp.sqrt(jnp.maximum(length, 1.0) * dim)
            near = jnp.where(ctx.experience.classes, near, -1.0).max(-1)
            return sums + mine.sum(-1) @ (near[:, None] ** jnp.arange(1, 3))

        mean, square = over(own, jnp.zeros(2)) / size
        scale = jax.lax.rsqrt(jnp.maximum(square - mean**2, 1e-6))
        s = s._replace(mean=put(s.mean, mean), scale=put(s.scale, scale))
        ts = ts._replace(params={"adaptor": adaptor, "head": head}, frozen=ts.frozen | {"choice": choice})
        return s, restart(ts, ctx)

    def augment(s, batch, ctx):
        return told_apart(batch, ctx.experience.classes, ctx)

    def moves(s: EarState, updates: Any, ctx) -> PyTree:
        trained = {"adaptor": s.adapts, "head": s.learns}
        return {name: jax.tree.map(lambda _, on=on: on, updates[name]) for name, on in trained.items()}

    def end(s, ts, ctx):
        return s._replace(parts=_with_own(s, ts.params), learns=jnp.bool_(False), adapts=jnp.bool_(False)), ts

    def predict(s, ctx):
        features = ctx.outputs.aux["encoded"].astype(jnp.float32)
        chosen = jnp.argmax(nearness(s, features), -1), jnp.arange(len(features))
        logits, adapted = jax.vmap(answered, (0, 0, None))(_with_own(s, ctx.params), s.choices, features)
        found = Outputs(mask_logits(logits, s.classes[:, None])[chosen], adapted[chosen])
        return jax.tree.map(lambda a, b: jnp.where(s.domains > 0, a, b), found, ctx.outputs._replace(aux=None))

    return Method(
        "ear",
        init=init,
        begin=begin,
        augment=augment,
        end=end,
        predict=predict,
        model=model,
        optimizer=only(moves),
        needs=("boundaries", "classes", "features"),
    )


def answered(params: Any, choice: jax.Array, features: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits [B, C] and what they are of [B, D], through one candidate; through none where the choice is -1."""
    adapted = features
    for k, layers in enumerate(params["adaptor"]):
        *_, (kernel, bias) = layers
        adapted = adapted + jnp.where(choice == k, _hidden(layers, features)[-1] @ kernel + bias, 0)
    return linear_head(params, "ear")(adapted), adapted


def _hidden(layers: Any, x: jax.Array) -> list[jax.Array]:
    """What each hidden layer answers."""
    found = []
    for kernel, bias in layers[:-1]:
        x = jax.nn.relu(x @ kernel + bias)
        found.append(x)
    return found


def _best(adaptor: Adaptor, features: jax.Array) -> jax.Array:
    """The candidate that tells rows apart best, int32 []; rows may come twice."""
    scores = [naswot(jnp.concatenate(_hidden(layers, features), -1) > 0, ridge=0.01) for layers in adaptor]
    return jnp.argmax(jnp.stack(scores)).astype(jnp.int32)


def _in_chunks(features: jax.Array, labels: jax.Array, many: int) -> Any:
    """`over(fn, start)`: the fold of `fn(carry, features [B, D], one-hot labels [B, C])`; codes of all are large."""
    size = min(256, len(features))
    more = -len(features) % size
    chunks = (
        jnp.pad(features, ((0, more), (0, 0))).reshape(-1, size, features.shape[1]),
        jnp.pad(labels, (0, more), constant_values=many).reshape(-1, size),
    )

    def over(fn, start):
        return jax.lax.scan(lambda c, x: (fn(c, x[0], jax.nn.one_hot(x[1], many)), None), start, chunks)[0]

    return over


def _with_own(s: EarState, params: optax.Params) -> optax.Params:
    """The parts of all domains, with those that are being learned."""

    def put(bank, leaf):
        return jnp.where(s.learns, bank.at[s.domains - 1].set(leaf), bank)

    return jax.tree.map(put, s.parts, params)

"""GCAB: a block with gates on top of a network that drifts, and projections that lead its features back.

Cotogni, Yang, Cusano, Bagdanov and van de Weijer, "Exemplar-free Continual Learning of Vision Transformers via Gated
Class-Attention and Cascaded Feature Drift Compensation", 2022, arXiv 2211.12292; its gates are those of Serra et al.,
"Overcoming Catastrophic Forgetting with Hard Attention to the Task", ICML 2018, arXiv 1801.01423. Opened: the authors'
code (OcraM17/GCAB-CFDC), not the papers. Where we differ: projections are affine and fit by ridge regression when an
experience is over, theirs are small networks that learn beside it, and features are distilled through them; the mean
of squares is distilled, theirs is a norm over the batch; gates sharpen once over an experience, there in each epoch,
and are drawn with a deviation of 0.1, there of 1; a sharp gate still learns, there it stands still, by a bound on what
its gradient is multiplied by, and is never beyond 6; the loss is a softmax over the classes of the experience, theirs
sigmoids of all; normalisation in the block has no parameters, and queries, keys and values have biases. With the same
weights and closed gates the block answers as theirs but for the approximation of GELU (2e-4; with that in both, 4e-8).
Soft gates differ (0.06 of 0.5 at a sharpness of 1): between values and the layer after them ours count twice, and those
of hidden units come before GELU, theirs after it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.continual._classes import told_apart
from ctrain_jax.continual._head import body, check_features, head_kernel, with_body
from ctrain_jax.continual.architecture._gated import (
    add_pairs,
    cascade,
    class_attention,
    close_gates,
    draw_block,
    draw_gates,
    drawn,
    drift_projection,
    no_pairs,
    soft_gate,
    still,
)
from ctrain_jax.continual.architecture._tasks import check_rows, check_tasks, copies, only, progress
from ctrain_jax.core import Method, Model, Outputs, Variables, mask_logits, tag, weighted_mean
from ctrain_jax.ops import check_non_negative, check_positive, check_size, restart

NOBODY = -1  # of `frozen["owner"]`: a class that was not seen


class GcabState(NamedTuple):
    """Strengths, and the network before this experience."""

    sharpest: jax.Array  # float32 []
    sparse: jax.Array  # float32 []
    lam: jax.Array  # float32 []
    gamma: jax.Array  # float32 []
    teacher: Variables  # params (of the network below the block) and model_state as the experience before left them


def gcab(
    num_tasks: int,
    *,
    tokens: int = 1,
    heads: int = 4,
    hidden: int | None = None,
    sharpest: float = 800.0,
    sparse: float = 0.05,
    lam: float = 1.0,
    gamma: float = 1.0,
    compensate: bool = True,
) -> Method:
    r"""Give each experience gates in a block on top of the network, and lead drifted features back to them.

    The features of the network, as :math:`L` tokens of :math:`D` numbers, and a class token of the experience go
    through attention and two dense layers. What these layers read and give is multiplied by gates :math:`m`, of which
    there are :math:`D` and, for the hidden units, :math:`H`: at step :math:`i` of :math:`n` of an experience

    .. math:: m = \sigma(s e), \qquad s = \frac{1}{s_{\max}} + \left(s_{\max} - \frac{1}{s_{\max}}\right) \frac{i}{n}

    with the gradient of :math:`s_{\max} \sigma(e)`. When it is over gates are 1 where :math:`e > 0`, else 0. A unit
    that had a gate of 1 is protected, :math:`a = 1`: a weight between two of these never moves again, nor does the bias
    of one. A row is told apart from the classes of its experience; training adds

    .. math:: \lambda_s \frac{\sum m (1 - a)}{\sum (1 - a)} + \frac{\lambda}{L D} \|f_t(x) - f_{t-1}(x)\|^2

    for the features :math:`f_t` of the network below, the second from the second experience on. Then ridge regression
    on the rows of the experience finds the affine :math:`p_t` of least :math:`\sum \|p_t(f_t) - f_{t-1}\|^2 + \gamma
    \|p_t - \mathrm{id}\|^2`, an intercept at no cost. Logits of the classes of experience :math:`c` are a layer of
    their own on the block with its gates and class token, which is given :math:`f_t(x)` through :math:`p_t`, then
    :math:`p_{t-1}`, down to :math:`p_{c+1}`.

    Args:
      num_tasks: experiences that there is room for.
      tokens: L, by which the width of the features is divided: `models.CNN` with maps of 7 by 7 has 49.
      heads: of the attention.
      hidden: H; four times D by default.
      sharpest: :math:`s_{\max}`.
      sparse: :math:`\lambda_s`.
      lam: :math:`\lambda`.
      gamma: of the ridge regression.
      compensate: False leaves features where they drift to: gates alone, with `lam=0`.

    Returns:
      The method. It needs no task of a row; an answer costs the block for each of `num_tasks`. Parameters are those of
      the network below and `gated`; `frozen` holds the model's own head, which nobody reads. Until an experience is
      over its drift is not led back. A class that comes again is its last experience's.

    Raises:
      ValueError: a size below 1, a negative strength, `sharpest` or `gamma` of 0; when a learner is made, a model
        without `head`, features that are no such tokens, more experiences than `num_tasks`; when it runs, rows that
        another method appended.

    Example:
      >>> gcab(5).needs
      ('boundaries', 'classes', 'features')
    """
    check_size("num_tasks", num_tasks)
    check_size("tokens", tokens)
    check_size("heads", heads)
    if hidden is not None:
        check_size("hidden", hidden)
    check_positive("sharpest", sharpest)
    check_non_negative("sparse", sparse)
    check_non_negative("lam", lam)
    check_positive("gamma", gamma)

    def model(inner):
        def init(rng, inputs):
            made = inner.init(rng, inputs)
            size, classes = head_kernel(made.params, "gcab").shape
            width, beyond = divmod(size, tokens)
            if beyond or width % heads:
                raise ValueError(
                    f"gcab expects features of {tokens} tokens whose width {heads} heads divide, got {size}: give "
                    "other tokens or heads."
                )
            sizes, key = {"width": width, "hidden": hidden or 4 * width}, tag(rng, "gated")
            gated = {
                "block": draw_block(tag(key, "block"), sizes),
                "gates": draw_gates(tag(key, "gates"), sizes),
                "tokens": 0.02 * jax.random.normal(tag(key, "tokens"), (num_tasks, width)),
                "head": {"kernel": drawn(tag(key, "head"), (width, classes)), "bias": jnp.zeros(classes)},
            }
            frozen = {
                "owner": jnp.full(classes, NOBODY, jnp.int32),
                "current": jnp.int32(0),
                "sharpness": jnp.float32(1),
                "sharpest": jnp.float32(1),
                "masks": {name: jnp.zeros((num_tasks, n), bool) for name, n in sizes.items()},
                "back": copies({"kernel": jnp.eye(width), "bias": jnp.zeros(width)}, num_tasks),
                "head": made.params["head"],
                "base": made.frozen,
            }
            return Variables(body(made.params) | {"gated": gated}, made.model_state, frozen)

        def apply(variables, inputs, *, train=False, **options):
            frozen, gated = variables.frozen, variables.params["gated"]
            base = Variables(_below(variables.params) | {"head": frozen["head"]}, variables.model_state, frozen["base"])
            outputs, model_state = inner.apply(base, inputs, train=train, **options)
            check_features(outputs.features, head_kernel({"head": frozen["head"]}, "gcab"), "gcab")
            if outputs.features.ndim != 2:
                raise ValueError(
                    f"gcab expects features [B, D], tokens one after the other, got {outputs.features.shape}: flatten "
                    "them in the model, below its head, and give their number as tokens."
                )
            features = outputs.features.astype(jnp.promote_types(outputs.features.dtype, jnp.float32))
            x, now, head = features.reshape(len(features), tokens, -1), frozen["current"], gated["head"]

            def answer(gates, token, x):
                return class_attention(gated["block"], gates, token, x, heads)

            if train:
                features = answer(_soft(gated, frozen), gated["tokens"][now], x)
                logits = features @ head["kernel"] + head["bias"]
            else:
                # Of every experience, as it knew the features.
                masks = jax.tree.map(
                    lambda bank: bank.astype(x.dtype), close_gates(frozen["masks"], gated["gates"], now)
                )
                each = jax.vmap(answer)(masks, gated["tokens"], cascade(x, frozen["back"]))
                owner, features = frozen["owner"], each[now]
                own = jnp.maximum(owner, 0)[None, None]
                logits = jnp.take_along_axis(each @ head["kernel"] + head["bias"], own, axis=0)[0]
                logits = mask_logits(logits, owner != NOBODY)
            return Outputs(logits, features, x), model_state

        return Model(init, apply)

    def init(rng, params, ctx):
        check_tasks("gcab", num_tasks, ctx, "gates")
        strengths = map(jnp.float32, (sharpest, sparse, lam, gamma))
        return GcabState(*strengths, teacher=Variables(_below(params), ctx.model_state))

    def begin(s, ts, ctx):
        gated, index = ts.params["gated"], ctx.experience.index
        gates = draw_gates(ctx.rng, jax.tree.map(len, gated["gates"]))
        frozen = ts.frozen | {
            "owner": jnp.where(ctx.experience.classes, index, ts.frozen["owner"]),
            "current": index,
            "sharpness": 1 / s.sharpest,
            "sharpest": s.sharpest,
        }
        return s, restart(ts._replace(params=ts.params | {"gated": gated | {"gates": gates}}, frozen=frozen), ctx)

    def augment(s, batch, ctx):
        return told_apart(batch, ctx.experience.classes, ctx)

    def old_tokens(s, params, batch, ctx):
        old = with_body(params, s.teacher.params)
        return ctx.forward(old, batch["inputs"], model_state=s.teacher.model_state, task=batch.get("task"))[0].aux

    def loss(s, params, ctx):
        free = jax.tree.map(lambda taken: 1.0 - taken, _protected(ctx.frozen))
        taken = jax.tree.map(jnp.multiply, _soft(params["gated"], ctx.frozen), free)
        crowded = optax.tree.sum(taken) / jnp.maximum(optax.tree.sum(free), 1.0)
        moved = jnp.square(ctx.outputs.aux - old_tokens(s, params, ctx.batch, ctx)).mean((1, 2))
        strength = jnp.where(ctx.experience.index > 0, s.lam, 0.0)
        return s.sparse * crowded + strength * weighted_mean(moved, ctx.batch["weights"]), {}

    def moves(s, updates, ctx):
        gated, own = updates["gated"], ctx.experience.classes
        free = jax.tree.map(jnp.logical_not, still(gated["block"], _protected(ctx.frozen)))
        token = (jnp.arange(num_tasks) == ctx.experience.index)[:, None]
        masks = {"block": free, "tokens": token, "head": {"kernel": own, "bias": own}}
        return jax.tree.map(lambda _: True, updates) | {"gated": {**jax.tree.map(lambda _: True, gated), **masks}}

    def update(s, ts, ctx):
        check_rows("gcab", ctx)
        done, steps = progress(ts, ctx)
        sharpness = 1 / s.sharpest + (s.sharpest - 1 / s.sharpest) * done / steps
        return s, ts._replace(frozen=ts.frozen | {"sharpness": sharpness})

    def end(s, ts, ctx):
        index, gates = ctx.experience.index, ts.params["gated"]["gates"]
        frozen = ts.frozen | {"masks": close_gates(ts.frozen["masks"], gates, index)}
        if compensate:
            width = len(gates["width"])

            def add(sums, batch, b):
                inputs, task = batch["inputs"], batch.get("task")
                new = ctx.forward(ts.params, inputs, model_state=ts.model_state, task=task)[0].aux
                old = old_tokens(s, ts.params, batch, ctx)
                weights = jnp.repeat(batch["weights"], tokens)
                return add_pairs(sums, new.reshape(-1, width), old.reshape(-1, width), weights)

            fit = drift_projection(ctx.scan(add, no_pairs(width)), s.gamma)
            # Nothing came before the first.
            put = jax.tree.map(
                lambda bank, p: bank.at[index].set(jnp.where(index > 0, p, bank[0])), frozen["back"], fit
            )
            frozen |= {"back": put}
        return s._replace(teacher=Variables(_below(ts.params), ts.model_state)), ts._replace(frozen=frozen)

    return Method(
        "gcab",
        init=init,
        begin=begin,
        augment=augment,
        loss=loss,
        update=update,
        end=end,
        model=model,
        optimizer=only(moves),
        needs=("boundaries", "classes", "features"),
    )


def _below(params: Any) -> Any:
    return {name: leaf for name, leaf in params.items() if name != "gated"}


def _soft(gated: Any, frozen: Any) -> Any:
    """The gates of the experience that is learned."""
    return jax.tree.map(lambda e: soft_gate(e, frozen["sharpness"], frozen["sharpest"]), gated["gates"])


def _protected(frozen: Any) -> Any:
    """Units that an earlier experience uses."""
    return jax.tree.map(lambda bank: bank.any(0), frozen["masks"])

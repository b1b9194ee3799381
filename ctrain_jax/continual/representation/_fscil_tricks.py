"""A bag of tricks for few-shot class-incremental learning: small methods, and the chain of them.

Roy, Park, Fahrezi and Etemad, "A Bag of Tricks for Few-Shot Class-Incremental Learning", 2024, arXiv 2403.14392. Of the
paper the abstract and a summary were read; a repository of its first author (ShuvenduRoy/FSCIL_RESEARCH) was opened,
and holds the code of another paper. Where we differ, as far as that tells: its pre-training is not here
(`experiments.pretrain` makes a network to start from), a larger encoder is another model, and its pretext task of
turned images is that of the pseudo-classes; a trained map lies between the features and the prototypes, as in
`lingocl`. How the paper matches classes to prototypes was not read: here by cosine, with the features that an
experience begins with.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import optax

from ctrain_jax.continual._head import check_features, head_kernel, linear_head, with_linear_head
from ctrain_jax.continual.representation._lingocl import lingocl
from ctrain_jax.continual.representation._nmc import nmc
from ctrain_jax.core import Method, Model, chain, weighted_mean
from ctrain_jax.losses import supervised_contrastive
from ctrain_jax.ops import (
    LinearHead,
    append_rows,
    check_non_negative,
    check_pattern,
    check_positive,
    check_wrapped,
    simplex_targets,
    unit,
)


class PreassignedState(NamedTuple):
    """Which targets are taken."""

    held: jax.Array  # bool [T], of classes that arrived


class ContrastState(NamedTuple):
    """The weight of the loss, and its temperature."""

    lam: jax.Array  # float32 []
    temperature: jax.Array  # float32 []


class SubnetworkState(NamedTuple):
    """How much slower the subnetwork learns; None where nothing does."""

    rate: jax.Array | None  # float32 []


def fscil_tricks(
    *,
    prototypes: bool = True,
    turns: int = 3,
    lam: float = 0.1,
    temperature: float = 0.1,
    train: str | None = None,
    rate: float = 0.1,
) -> Method:
    r"""Learn base classes so that there is room for those to come, then answer by class means.

    The chain of `preassigned()`, `pseudo_classes` of images turned by 90 degrees and its multiples,
    `contrast(lam, temperature)`, `subnetwork(train, rate=rate)` and `nmc(metric="cosine", train=True, fill="end")`: the
    first experience trains the network with the tricks, the later ones what `train` names, and the mean of a few shots
    stands for a new class. Each of them lives alone too, in `continual.representation`, and chains with other methods.

    It is for `streams.few_shot_class_incremental`; `metrics.harmonic_accuracy` weighs base classes and new ones.

    Args:
      prototypes: whether the head is replaced by fixed prototypes.
      turns: pseudo-classes of each class, 0 to 3; not for images that look alike when turned.
      lam: of the supervised contrast of the features; 0 for none. More of it was better for base classes and worse for
        new ones in what we measured.
      temperature: of the contrast.
      train: pattern (`re.search`) of the parameters that go on learning after the first experience; none by default.
      rate: of their updates, relative to the first experience.

    Returns:
      The chain; it needs boundaries, labels, features of the model, with prototypes or turns a last layer that is
      called `head`, and for turns square images and a stream with heads="all".

    Raises:
      ValueError: `turns` outside 0 to 3, or what the parts refuse.

    Example:
      >>> [part.name for part in fscil_tricks().parts]
      ['preassigned', 'pseudo_classes', 'contrast', 'subnetwork', 'nmc']
    """
    if not isinstance(turns, int) or turns not in range(4):
        raise ValueError(f"turns expects 0, 1, 2 or 3 quarters, got {turns!r}.")
    parts = [preassigned()] if prototypes else []
    parts += [pseudo_classes(*(partial(quarter_turns, k=k) for k in range(1, turns + 1)))] if turns else []
    parts += [contrast(lam, temperature)] if isinstance(lam, jax.core.Tracer) or lam != 0 else []
    return chain(*parts, subnetwork(train, rate=rate), nmc(metric="cosine", train=True, fill="end"))


def preassigned(*, scale: float = 1 / 0.07) -> Method:
    r"""The head of `lingocl`, with the corners of a simplex, each given to the class that is nearest when it arrives.

    When an experience begins, with :math:`\bar c_k` the mean over the rows of a new class of their cosines with the
    corners, the classes :math:`N` that are new get corners :math:`\pi(k)` that no class holds, such that
    :math:`\sum_{k \in N} \bar c_{k, \pi(k)}` is as large as can be (the Hungarian algorithm). A class keeps its corner;
    those of `pseudo_classes` have what is left, and hold none.

    Args:
      scale: of the cosines, as in `lingocl`.

    Returns:
      The method: `lingocl` with `simplex_targets` for as many classes as the head of the model has, which with
      `pseudo_classes` after it in the chain counts theirs. It comes first among methods that wrap the model.

    Raises:
      ValueError: a `scale` of 0 or below; when a learner is made, a model without `head`.

    Example:
      >>> preassigned().needs
      ('boundaries', 'classes', 'features')
    """
    check_positive("scale", scale)

    def model(inner):
        def fixed(num):
            with jax.ensure_compile_time_eval():
                targets = simplex_targets(num, num - 1)
            return lingocl(targets, scale=scale).model(inner)

        def init(rng, inputs):
            params = jax.eval_shape(inner.init, rng, inputs).params
            return fixed(head_kernel(params, "preassigned").shape[1]).init(rng, inputs)

        # Its targets are those of the variables.
        return Model(init, fixed(2).apply)

    def init(rng, params, ctx):
        check_wrapped("preassigned", ctx.frozen, "targets")
        return PreassignedState(jnp.zeros(len(ctx.frozen["targets"]), bool))

    def begin(s, ts, ctx):
        targets, num = ts.frozen["targets"], len(s.held)

        def add(carry, batch, index):
            outputs, _ = ctx.forward(ts.params, batch["inputs"], model_state=ts.model_state, task=batch["task"])
            rows = jax.nn.one_hot(batch["labels"], num) * batch["weights"][:, None]
            near = unit(outputs.features @ ts.params["projection"]) @ targets.T
            return carry[0] + rows.T @ near, carry[1] + rows.sum(0)

        sums, counts = ctx.scan(add, (jnp.zeros((num, num)), jnp.zeros(num)))
        order = assigned(sums / jnp.maximum(counts, 1.0)[:, None], s.held)
        return PreassignedState(s.held | (counts > 0)), ts._replace(frozen=ts.frozen | {"targets": targets[order]})

    return Method("preassigned", init=init, begin=begin, model=model, needs=("boundaries", "classes", "features"))


def assigned(similarity: jax.Array, held: jax.Array) -> jax.Array:
    """int32 [T]: a target for each class, of the largest sum of similarities [T, T]; those held keep theirs."""
    num = len(held)
    # Beyond any sum of cosines.
    kept = 4.0 * num * jnp.eye(num)
    rows, columns = optax.assignment.hungarian_algorithm(-jnp.where(held[:, None], kept, similarity))
    return jnp.zeros(num, jnp.int32).at[rows].set(columns.astype(jnp.int32))


def pseudo_classes(*views: Callable[[jax.Array], jax.Array]) -> Method:
    r"""In the first experience, classes made of each class: its rows through a view are a class of their own.

    A row :math:`(x, y)` comes with rows :math:`(v_k(x), y + k C)`, one for each view :math:`v_1, v_2, \ldots` In
    training the model answers :math:`(1 + K) C` logits, those beyond C from columns that are added to the last layer;
    asked, it answers C. So there is room between the base classes where later ones can be. After the first experience
    copies of the rows, of weight 0, stand where the views were.

    Args:
      *views: `inputs [B, ...] -> inputs`, as `quarter_turns` with a `k`.

    Returns:
      The method; it needs features of the model, a last layer that is called `head`, and a stream with heads="all".
      Methods of a chain that read logits in training see those of the pseudo-classes too: what compares them with those
      of a network that is asked (`der`, `lwf`, `wa`), or has logits of its own (`lucir`, `pcr`, `prd`), does not go
      with it. It comes after methods that append rows. A learner that starts from given variables has copies of their
      columns.

    Raises:
      ValueError: no view; when a learner is made, a model without `head`, restricted heads; when traced, features that
        are not what the head is given, a batch with soft targets or restricted classes.

    Example:
      >>> pseudo_classes(lambda inputs: -inputs).needs
      ('boundaries', 'classes', 'features')
    """
    if not views:
        raise ValueError("pseudo_classes expects at least one view, got none.")

    def model(inner):
        def init(rng, inputs):
            made = inner.init(rng, inputs)
            more = [inner.init(jax.random.fold_in(rng, k + 1), inputs).params for k in range(len(views))]
            heads = [linear_head(params, "pseudo_classes") for params in (made.params, *more)]
            wide = jax.tree.map(lambda *parts: jnp.concatenate(parts, -1), *heads)
            return made._replace(params=with_linear_head(made.params, wide))

        def apply(variables, inputs, *, train=False, **options):
            head = linear_head(variables.params, "pseudo_classes")
            num = head.kernel.shape[1] // (1 + len(views))
            own, more = (LinearHead(head.kernel[:, part], head.bias[part]) for part in (slice(num), slice(num, None)))
            plain = variables._replace(params=with_linear_head(variables.params, own))
            outputs, model_state = inner.apply(plain, inputs, train=train, **options)
            if train:
                check_features(outputs.features, own.kernel, "pseudo_classes")
                outputs = outputs._replace(logits=jnp.concatenate([outputs.logits, more(outputs.features)], -1))
            return outputs, model_state

        return Model(init, apply)

    def init(rng, params, ctx):
        if ctx.spec.heads != "all":
            raise ValueError(f"pseudo_classes expects a stream with heads='all', got heads={ctx.spec.heads!r}.")
        return ()

    def problem(plain):
        def loss(outputs, batch):
            for name in ("classes", "targets"):
                if name in batch and batch[name].shape[-1] != outputs.logits.shape[-1]:
                    raise ValueError(
                        f"pseudo_classes expects rows of one class each, told apart from all, got {name!r} from "
                        "another method: leave out what mixes rows or restricts classes."
                    )
            return plain.loss(outputs, batch)

        return plain._replace(loss=loss)

    def augment(s, batch, ctx):
        first = ctx.experience.index == 0
        longer = batch
        for k, view in enumerate(views, 1):
            # Not a view of weight 0: statistics of batches count all rows alike.
            new = {"inputs": jnp.where(first, view(batch["inputs"]), batch["inputs"])}
            new |= {"labels": batch["labels"] + k * ctx.spec.num_classes, "weights": batch["weights"] * first}
            longer = append_rows(longer, batch | new)
        return longer

    needs = ("boundaries", "classes", "features")
    return Method("pseudo_classes", init=init, augment=augment, model=model, problem=problem, needs=needs)


def quarter_turns(images: jax.Array, k: int = 1) -> jax.Array:
    """Square images [B, H, H, ...] turned by k times 90 degrees."""
    if images.ndim not in (3, 4) or images.shape[1] != images.shape[2]:
        raise ValueError(f"quarter_turns expects square images [B, H, H] or [B, H, H, C], got shape {images.shape}.")
    return jnp.rot90(images, k, (1, 2))


def contrast(lam: float = 1.0, temperature: float = 0.1) -> Method:
    r"""Add :math:`\lambda` times the supervised contrastive loss of the features, the mean over the rows of a batch.

    Args:
      lam: :math:`\lambda`.
      temperature: as in `losses.supervised_contrastive`.

    Returns:
      The method; it needs features of the model.

    Raises:
      ValueError: a negative `lam`, a `temperature` of 0 or below.

    Example:
      >>> contrast(0.5).needs
      ('classes', 'features')
    """
    check_non_negative("lam", lam)
    check_positive("temperature", temperature)

    def init(rng, params, ctx):
        return ContrastState(jnp.asarray(lam, jnp.float32), jnp.asarray(temperature, jnp.float32))

    def loss(s, params, ctx):
        labels, weights = ctx.batch["labels"], ctx.batch["weights"]
        each = supervised_contrastive(ctx.outputs.features, labels, s.temperature, weights > 0)
        return s.lam * weighted_mean(each, weights), {}

    return Method("contrast", init=init, loss=loss, needs=("classes", "features"))


def subnetwork(train: str | None = None, *, rate: float = 1.0) -> Method:
    """After the first experience only some parameters learn; all others, and the model's state, stay as they are.

    Args:
      train: pattern (`re.search`) of names like `dense_1.kernel`; None for no parameter.
      rate: by which their updates are multiplied.

    Returns:
      The method.

    Raises:
      ValueError: a negative `rate`; when a learner is made, a pattern that finds nothing.

    Example:
      >>> subnetwork("^dense_1", rate=0.1).needs
      ('boundaries',)
    """
    check_non_negative("rate", rate)
    check_pattern("train", train)

    def learns(path):
        return train is not None and re.search(train, jax.tree_util.keystr(path, simple=True, separator="."))

    def init(rng, params, ctx):
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        if train is not None and not any(map(learns, paths)):
            names = ", ".join(sorted(jax.tree_util.keystr(path, simple=True, separator=".") for path in paths))
            raise ValueError(f"subnetwork: train={train!r} finds no parameter: choose from {names}.")
        return SubnetworkState(None if train is None else jnp.asarray(rate, jnp.float32))

    def optimizer(tx):
        def update(updates, state, params=None, **extra):
            first, s = extra["ctx"].experience.index == 0, extra["method_state"]
            updates, state = tx.update(updates, state, params, **extra)

            def one(path, leaf):
                return jnp.where(first, leaf, (s.rate * leaf).astype(leaf.dtype) if learns(path) else 0)

            return jax.tree_util.tree_map_with_path(one, updates), state

        return optax.GradientTransformationExtraArgs(tx.init, update)

    def update(s, ts, ctx):
        first = ctx.experience.index == 0
        kept = jax.tree.map(lambda new, old: jnp.where(first, new, old), ts.model_state, ctx.model_state)
        return s, ts._replace(model_state=kept)

    return Method("subnetwork", init=init, optimizer=optimizer, update=update, needs=("boundaries",))

"""Mamba-FSCIL: a projector of two branches on a frozen network, the second for what comes later, by selective scans.

Li et al., "Mamba-FSCIL: Dynamic Adaptation with Selective State Space Model for Few-Shot Class-Incremental Learning",
2024, arXiv 2407.06136; fixed targets and their regression are those of Yang et al., "Neural Collapse Inspired
Feature-Classifier Alignment for Few-Shot Class-Incremental Learning", ICLR 2023, arXiv 2302.03004. Opened: the authors'
code (xiaojieli0903/Mamba-FSCIL); of the papers one abstract. Told again in numpy, its projector, coefficients,
regression and separation agree with ours to 3e-7. We follow what it does with CIFAR-100 (with CUB it counts each row
the same, and the first branch goes on learning). Where we differ: losses are divided by 10, the weight of the
regression there; a step sees the means of all earlier classes, there 8 rows drawn from these and the new ones together;
in place of a norm divided by the number of entries there is the root of their mean square, so that batches of any size
agree, and of gates as they are, where it adds those of the four directions, of two with their channels in reverse (its
weight of 100 is 2 to 3 so, for 8 rows of CIFAR-100); a reward of large gates for new classes, of weight 1e-5, and all
mixing of rows are left out; the scan goes by columns in maps of any shape.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.continual._head import body, check_features, head_kernel, unasked
from ctrain_jax.continual.architecture._selective import Projected, apply_branch, draw_branch
from ctrain_jax.continual.architecture._tasks import only
from ctrain_jax.core import Method, Model, Outputs, Variables, mask_logits, tag
from ctrain_jax.ops import check_non_negative, check_size, restart, simplex_targets, unit

NEW = 1  # of the branches, the one that learns later classes


class MambaFscilState(NamedTuple):
    """Mean maps of classes, and which of these came first."""

    suppress: jax.Array  # float32 []
    separate: jax.Array  # float32 []
    sums: jax.Array  # float32 [C, L, D], of the maps of the network
    counts: jax.Array  # float32 [C], rows seen of each class
    base: jax.Array  # bool [C], classes of the first experience


def mamba_fscil(
    grid: tuple[int, int],
    *,
    width: int | None = None,
    states: int = 16,
    rank: int | None = None,
    suppress: float = 0.3,
    separate: float = 1e-4,
) -> Method:
    r"""Learn many classes and freeze; then a second branch of the projector learns classes of few rows.

    The features of the network are maps, :math:`D` channels at :math:`L` positions. The projector adds to their mean
    that of a gated selective scan (`ops.selective_scan`, in four directions) of them, and that of a second one whose
    gate starts at 0. The logits are cosines of this :math:`\mu` with fixed targets :math:`t_c`, the corners of a
    simplex, and the loss of a row of class :math:`y` is

    .. math:: \tfrac12 \left(\langle t_y, \mu / \|\mu\| \rangle - 1\right)^2

    The first experience trains all but the second branch, and later ones that alone. There the loss is a mean over
    classes, those of the batch and the earlier ones, which have one row each, their mean map. With the gates
    :math:`z` and the coefficients :math:`B, C` and :math:`\Delta` (before it is made wide) of the second branch it
    adds, for the mean maps of the base and all other rows,

    .. math:: \lambda_{\mathrm{sup}} \sqrt{\overline{z_{\mathrm{base}}^2}} + \frac{\lambda_{\mathrm{sep}}}{2}
              \sum_{P \in \{\Delta, B, C\}} \left| \cos(\bar P_{\mathrm{base}}, \bar P_{\mathrm{new}}) \right|

    It is for `streams.few_shot_class_incremental`; answers are among the classes seen.

    Args:
      grid: rows and columns of the maps: `models.CNN` with two blocks on images of 28 pixels has (7, 7).
      width: of :math:`\mu`; the channels of the maps by default, and with another one a linear map of the mean.
      states: of a channel; 256 in the authors' code, 16 in Mamba.
      rank: of what time depends on; width / 16 by default, 256 in the authors' code.
      suppress: :math:`\lambda_{\mathrm{sup}}`, how much the second branch is kept from the base.
      separate: :math:`\lambda_{\mathrm{sep}}`, how much its coefficients for new classes are kept from those for the
        base.

    Returns:
      The method. Parameters are those of the network and `projector`; `frozen` holds the targets and the model's own
      head, which nobody reads. Methods of a chain that take the problem's own gradient (`agem`, `gem`, `mir`,
      `refresh`, `rwalk`, `si`) find none.

    Raises:
      ValueError: a grid that is no pair, a size below 1, a negative strength; when a learner is made, a model without
        `head`, features that are no such maps, a width below the number of classes less 1, labels that are no classes.

    Example:
      >>> mamba_fscil((7, 7)).needs
      ('boundaries', 'classes', 'features')
    """
    if not isinstance(grid, tuple | list) or len(grid) != 2:
        raise ValueError(f"mamba_fscil expects grid as rows and columns of the maps, got {grid!r}: give two numbers.")
    for name, size in (("A side of grid", grid[0]), ("A side of grid", grid[1]), ("states", states)):
        check_size(name, size)
    for name, size in (("width", width), ("rank", rank)):
        if size is not None:
            check_size(name, size)
    check_non_negative("suppress", suppress)
    check_non_negative("separate", separate)
    places = grid[0] * grid[1]

    def project(projector: Any, maps: jax.Array) -> Projected:
        """Of rows [B, L, D]; gate and patterns of the second branch."""
        mean = jnp.mean(maps, 1)
        mean = mean @ projector["mean"] if "mean" in projector else mean
        found = jax.vmap(lambda branch: apply_branch(branch, maps, grid))(projector["branches"])
        return jax.tree.map(lambda leaf: leaf[NEW], found)._replace(features=mean + found.features.sum(0))

    def model(inner):
        def init(rng, inputs):
            made = inner.init(rng, inputs)
            size, classes = head_kernel(made.params, "mamba_fscil").shape
            channels, beyond = divmod(size, places)
            if beyond:
                raise ValueError(f"mamba_fscil expects features of maps of {grid}, got {size}: give their grid.")
            wide, key = width or channels, tag(rng, "projector")
            if wide < classes - 1:
                raise ValueError(
                    f"mamba_fscil expects a width of at least {classes - 1} for {classes} classes, got {wide}: give "
                    "width, or more channels."
                )
            sizes = places, channels, wide, states, rank or math.ceil(wide / 16)
            both = jax.vmap(lambda k: draw_branch(k, *sizes))(jax.random.split(tag(key, "branches")))
            projector: dict[str, Any] = {"branches": both | {"gate": both["gate"].at[NEW].set(0)}}
            if width is not None:
                drawn = jax.random.uniform(tag(key, "mean"), (channels, wide), minval=-1.0, maxval=1.0)
                projector["mean"] = drawn / math.sqrt(channels)
            # Means behind a ReLU have no negative entries, and would reach few corners as these come.
            turned, _ = jnp.linalg.qr(jax.random.normal(tag(key, "targets"), (wide, classes - 1)))
            frozen = {
                "targets": simplex_targets(classes, classes - 1) @ turned.T,
                "later": jnp.zeros((), bool),
                "means": jnp.zeros((classes, places, channels)),
                "head": made.params["head"],
                "base": made.frozen,
            }
            return Variables(body(made.params) | {"projector": projector}, made.model_state, frozen)

        def apply(variables, inputs, *, train=False, **options):
            below = {name: leaf for name, leaf in variables.params.items() if name != "projector"}
            frozen, kernel = variables.frozen, head_kernel({"head": variables.frozen["head"]}, "mamba_fscil")
            base = Variables(below | {"head": frozen["head"]}, variables.model_state, frozen["base"])

            def answer(train):
                return inner.apply(base, inputs, train=train, **options)

            # A network that stands still is asked as in a test, or maps would depend on the other rows of a batch.
            if train:
                outputs, model_state = jax.lax.cond(frozen["later"], lambda: answer(False), lambda: answer(True))
            else:
                outputs, model_state = answer(False)
            check_features(outputs.features, kernel, "mamba_fscil")
            maps = outputs.features.reshape(len(inputs), places, -1)
            # In training the means of old classes go along: a second call would be compiled again.
            found = project(variables.params["projector"], jnp.concatenate([maps, frozen["means"]]) if train else maps)
            rows = jax.tree.map(lambda leaf: leaf[: len(maps)], found)
            # Under an axis more: on several devices rows that fill up a batch are cut off, by the length of the first.
            old = jax.tree.map(lambda leaf: leaf[None, len(maps) :], found)
            logits, aux = unit(rows.features) @ frozen["targets"].T, {"maps": maps, "rows": rows, "old": old}
            return Outputs(logits, rows.features, aux), model_state

        return Model(init, apply)

    def init(rng, params, ctx):
        classes = ctx.spec.num_classes
        sums = jnp.zeros((classes, *ctx.spec.outputs.aux["maps"].shape[1:]))
        return MambaFscilState(
            jnp.asarray(suppress, jnp.float32),
            jnp.asarray(separate, jnp.float32),
            sums,
            jnp.zeros(classes),
            jnp.zeros(classes, bool),
        )

    def begin(s, ts, ctx):
        means = s.sums / jnp.maximum(s.counts, 1.0)[:, None, None]
        frozen = ts.frozen | {"later": ctx.experience.index > 0, "means": means}
        return s, restart(ts._replace(frozen=frozen), ctx)

    def loss(s, params, ctx):
        batch, targets, aux = ctx.batch, ctx.frozen["targets"], ctx.outputs.aux
        found = jax.tree.map(lambda rows, old: jnp.concatenate([rows, old[0]]), aux["rows"], aux["old"])
        labels = jnp.concatenate([batch["labels"], jnp.arange(len(s.counts))])
        weights = jnp.concatenate([batch["weights"], s.counts > 0])
        each = regression(found.features, targets, labels)
        by_class = jax.ops.segment_sum(weights, labels, len(s.counts))[labels]
        shared = weights / jnp.where(by_class > 0, by_class, 1.0)

        base, new = (weights * part[labels] for part in (s.base, ~s.base))
        large = _root(_mean(jnp.mean(jnp.square(found.gate), (1, 2)), base))
        over = [pattern.mean(1) for pattern in found.patterns]
        alike = sum(jnp.abs(unit(_mean(rows, base)) @ unit(_mean(rows, new))) for rows in over)
        # Nothing is held in the first experience, and all weighs 0 but the rows.
        rows = jnp.where(ctx.experience.index > 0, shared, weights)
        return _mean(each, rows) + s.suppress * large + s.separate / 2 * alike, {}

    def moves(s, updates, ctx):
        first = ctx.experience.index == 0

        def one(path, leaf):
            if [getattr(key, "key", None) for key in path[:2]] != ["projector", "branches"]:
                return first
            return ((jnp.arange(2) == NEW) != first).reshape(2, *(1,) * (leaf.ndim - 1))

        return jax.tree_util.tree_map_with_path(one, updates)

    def end(s, ts, ctx):
        def add(carry, batch, index):
            outputs, _ = ctx.forward(ts.params, batch["inputs"], model_state=ts.model_state, task=batch["task"])
            own = batch["weights"][:, None] * jax.nn.one_hot(batch["labels"], len(s.counts))
            return carry[0] + jnp.einsum("bc,bld->cld", own, outputs.aux["maps"]), carry[1] + own.sum(0)

        sums, counts = ctx.scan(add, (s.sums, s.counts))
        base = jnp.where(ctx.experience.index == 0, counts > 0, s.base)
        return s._replace(sums=sums, counts=counts, base=base), ts

    def predict(s, ctx):
        return ctx.outputs._replace(logits=mask_logits(ctx.outputs.logits, ctx.experience.seen))

    return Method(
        "mamba_fscil",
        init=init,
        begin=begin,
        end=end,
        loss=loss,
        predict=predict,
        model=model,
        problem=unasked,
        optimizer=only(moves),
        needs=("boundaries", "classes", "features"),
    )


def regression(features: jax.Array, targets: jax.Array, labels: jax.Array) -> jax.Array:
    """Half the squared difference of 1 and the cosine of each row of features with the target of its class."""
    return jnp.square(jnp.sum(unit(features) * targets[labels], -1) - 1) / 2


def _mean(rows: jax.Array, weights: jax.Array) -> jax.Array:
    """Over rows `[B, ...]` of some weights; 0 where there are none."""
    total = jnp.sum(weights)
    return jnp.tensordot(weights, rows, 1) / jnp.where(total > 0, total, 1.0)


def _root(square: jax.Array) -> jax.Array:
    """Its root; of 0, where a root has no gradient, 0 with none."""
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)

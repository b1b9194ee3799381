"""SHARP: sparse layers whose useful units come to rest, and replay of what a hidden layer was given of late.

Gurbuz, Moorman and Dovrolis, "SHARP: Sparsity and Hidden Activation RePlay for Neuro-Inspired Continual Learning",
2023, arXiv 2305.18563. Opened: learner.py, architecture.py, rewire.py, memory.py, neocortex.py and supcon.py of the
authors' code (BurakGurbuz97/SHARP-Continual-Learning); the paper was not. As there, features are learned by contrast
and answered by nearest neighbours, and connections grow at random. Where we differ: dense layers alone, where the code
has convolutions too, whose connections are kernels; masks start with exact sizes, where the code draws each weight by
itself; activations are kept in float32, there in 8 bits, and once weights into free units are drawn anew, there before;
the scale of these is that of a whole layer, there of its free units; all kept rows are neighbours, where the code draws
some of them if it replays more; activity is measured on other rows at each change, there on the first 1,024; the
optimizer starts anew with an experience, there with each change; of equally many votes the class of the nearest row
wins, there the smaller number; a row that excites no feature of an experience has a cosine of 0 with its rows, there as
of a half.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctrain_jax.continual._head import check_head, unasked
from ctrain_jax.continual._units import balanced, given_to_layers, most_active, order_of_layers
from ctrain_jax.continual.architecture._tasks import name_of, named, only, progress
from ctrain_jax.core import Context, Method, PyTree, TrainState, tag, weighted_mean
from ctrain_jax.losses import supervised_contrastive
from ctrain_jax.ops import (
    check_fraction,
    check_positive,
    check_size,
    each_row,
    permute_index,
    restart,
    top_k_mask,
    unit,
)

Layers = dict[str, jax.Array]
FREE, CHOSEN = 0, 1  # ages of units; from 2 on they belong to an experience that is over


class SharpState(NamedTuple):
    """Connections and ages of the layers before the head; of T experiences N rows each."""

    share: jax.Array  # float32 []
    temperature: jax.Array  # float32 []
    every: jax.Array  # int32 []
    masks: Layers  # {layer: bool, like its kernel}, the connections
    ages: Layers  # {layer: int32 [units]}
    hidden: jax.Array  # float32 [recent, N, D_l], what a layer was given, by experience modulo `recent`
    labels: jax.Array  # int32 [T, N], C where there is no row
    features: jax.Array  # float32 [T, N, D]
    units: jax.Array  # bool [T, D], the features that count for rows of an experience


def sharp(
    layer: str,
    *,
    size: int = 50,
    recent: int = 1,
    density: float = 0.4,
    share: float = 0.9,
    period: int = 30,
    every: int = 100,
    temperature: float = 0.1,
    batch_size: int | None = None,
    neighbors: int = 5,
    rows: int = 256,
    trained: bool = False,
) -> Method:
    r"""Give each experience the units that it excites, keep what feeds them, and replay activations of the last ones.

    At the start of an experience and at each multiple of `every` steps, the p-th time, the units of a layer that are
    most active in the mean over some rows, until they have the part

    .. math:: \max\Big(\mathrm{share}, \tfrac12 \big(1 + \cos \tfrac{\pi \max(p, 2)}{\mathrm{period}}\big)\Big)

    of all activity, are chosen, but for those of earlier experiences; the rest of these is free. Connections from free
    units to others are dropped, and as many grow at random, from 0, into free units of the layer. When the experience
    is over its chosen units are kept, and weights into free ones are drawn anew. Weights and biases of kept units stand
    still: below `layer` from then on, above it once the experience is no longer replayed. What excites a kept unit has
    been kept before, so that its answers stay as well.

    Of `size` rows of an experience, balanced over its classes, what `layer` was given is kept through the next `recent`
    experiences and replayed from there on. The loss, in place of the problem's, is the supervised contrast
    (`losses.supervised_contrastive`) of incoming and replayed rows in the features that are not free. The answer is the
    vote of the nearest kept rows by the cosine of features, of an experience's rows in the features that it kept.

    When an experience is over, features are those of the network then, also of the rows that it replayed. A unit below
    `layer` that a later experience chooses was free when replayed rows were kept, and would have another value in them
    now, here as in the authors' code. That tells old rows from new ones in training and not in a test; `trained` avoids
    it.

    Args:
      layer: the dense layer, by a name like `dense_1`, whose input is replayed. The first one replays inputs.
      size: rows of an experience; in the authors' code 25 of each class.
      recent: experiences whose rows are replayed; 1 in the authors' code.
      density: share of connections in each layer before the head.
      share: of activity; 0.6 to 0.9 in the authors' code.
      period: changes after which no activity would be asked for.
      every: steps between changes; 3 epochs in the authors' code, with 10 changes.
      temperature: of the contrast.
      batch_size: rows replayed in a step; as many as the incoming ones by default.
      neighbors: that vote.
      rows: on which activity is measured.
      trained: keep all units and connections below `layer` as the learner starts from them.

    Returns:
      The method, for a linen network of dense layers that ends in a layer `head`, which is not used. An experience that
      is over has 4 N (D + 1) + D bytes, the last ones 4 N D_l more. Methods of a chain that take the problem's own
      gradient (`agem`, `gem`, `mir`, `refresh`, `rwalk`, `si`) find none.

    Raises:
      ValueError: `size`, `recent`, `period`, `every`, `batch_size`, `neighbors` or `rows` below 1, a `density` outside
        of (0, 1], a `share` outside of [0, 1], a `temperature` of 0 or below; when the learner is started, a network of
        other layers, none of the name `layer` or `head`, more rows than the largest experience has, or fewer than
        `neighbors`.

    Example:
      >>> sharp("dense_1", size=50).needs
      ('boundaries', 'classes', 'features')
    """
    for name, number in (("size", size), ("recent", recent), ("period", period), ("every", every)):
        check_size(name, number)
    check_positive("density", density)
    check_fraction("density", density)
    check_fraction("share", share)
    check_positive("temperature", temperature)
    if batch_size is not None:
        check_size("batch_size", batch_size)
    check_size("neighbors", neighbors)
    check_size("rows", rows)

    def init(rng, params, ctx):
        check_head(params, ctx, "sharp")
        given = jax.eval_shape(lambda p: given_to_layers(ctx, p, jnp.zeros(ctx.spec.batch["inputs"].shape))[1], params)
        layers = order_of_layers(ctx, params)
        _check(layer, layers, given, params, ctx)
        if not neighbors <= size <= ctx.spec.max_rows:
            raise ValueError(
                f"sharp keeps size={size} rows of an experience for neighbors={neighbors}, and the largest has "
                f"{ctx.spec.max_rows}: give a size from {neighbors} to {ctx.spec.max_rows}."
            )
        everything, masks, ages = named(params), {}, {}
        for i, name in enumerate(layers[:-1]):
            kernel = everything[f"{name}.kernel"]
            scores = jax.random.uniform(tag(rng, name), kernel.shape)
            whole = trained and i < layers.index(layer)
            masks[name] = top_k_mask(scores, kernel.size if whole else max(round(density * kernel.size), 1))
            ages[name] = jnp.full(kernel.shape[-1], CHOSEN + 1 if whole else FREE, jnp.int32)
        tasks, width = ctx.spec.num_experiences, given[layers[-1]].shape[-1]
        return SharpState(
            jnp.asarray(share, jnp.float32),
            jnp.asarray(temperature, jnp.float32),
            jnp.asarray(every, jnp.int32),
            masks,
            ages,
            jnp.zeros((recent, size, given[layer].shape[-1])),
            jnp.full((tasks, size), ctx.spec.num_classes, jnp.int32),
            jnp.zeros((tasks, size, width)),
            jnp.zeros((tasks, width), bool),
        )

    def change(s, ts, ctx, time):
        """The units that are chosen, and connections that follow them."""
        place = jax.random.randint(tag(ctx.rng, "rows"), (rows,), 0, ctx.experience.size)
        _, given = given_to_layers(ctx, ts.params, _fetch(ctx, place)["inputs"], model_state=ts.model_state)
        part = jnp.maximum(s.share, (1 + jnp.cos(jnp.pi * jnp.maximum(time, 2) / period)) / 2)
        kernels, ages, masks, sources = named(ts.params), {}, {}, None
        for name, after in itertools.pairwise(order_of_layers(ctx, ts.params)):
            top = most_active(jnp.abs(given[after]).mean(0), part)
            ages[name] = jnp.where(s.ages[name] > CHOSEN, s.ages[name], top.astype(jnp.int32))
            free, mask = ages[name] == FREE, s.masks[name]
            if sources is not None:
                away = mask & (sources == FREE)[:, None] & ~free
                absent = ~mask & free
                number = jnp.minimum(jnp.sum(away), jnp.sum(absent))
                scores = jax.random.uniform(tag(ctx.rng, name), mask.shape)
                grown = top_k_mask(jnp.where(absent, scores, -1), number)
                mask = (mask & ~away) | grown
                kernels[f"{name}.kernel"] = jnp.where(away | grown, 0, kernels[f"{name}.kernel"])
            masks[name], sources = mask, ages[name]
        return s._replace(ages=ages, masks=masks), _put(ts, kernels)

    def begin(s, ts, ctx):
        leaves = named(ts.params)
        for name, mask in s.masks.items():
            leaves[f"{name}.kernel"] = jnp.where(mask, leaves[f"{name}.kernel"], 0)
        s, ts = change(s, _put(ts, leaves), ctx, 1)
        return s, restart(ts, ctx)

    def update(s, ts, ctx):
        done, steps = progress(ts, ctx)
        due = (done % s.every == 0) & (done < steps)
        return jax.lax.cond(due, lambda: change(s, ts, ctx, 1 + done // s.every), lambda: (s, ts))

    def moves(s, updates, ctx):
        order = order_of_layers(ctx, ctx.params)
        lower = order[: order.index(layer)]

        def one(path, leaf):
            name, _, kind = name_of(path).rpartition(".")
            if name not in s.masks:
                return jnp.zeros(leaf.shape, bool)
            moving = s.ages[name] <= CHOSEN + (0 if name in lower else recent)
            return s.masks[name] & moving if kind == "kernel" else moving

        return jax.tree_util.tree_map_with_path(one, updates)

    def loss(s, params, ctx):
        batch, num = ctx.batch, batch_size or ctx.spec.batch_size
        held, none = recent * size, ctx.spec.num_classes
        at = permute_index(ctx.rng, jnp.arange(num) % held, held)
        last = _slots(ctx.experience.index - 1, recent)
        labels = jnp.where(last[:, None] >= 0, s.labels[last], none).reshape(-1)[at]
        dummy = jnp.zeros((num, *batch["inputs"].shape[1:]))
        old, given = given_to_layers(ctx, params, dummy, {layer: s.hidden.reshape(held, -1)[at]})
        features = jnp.concatenate([jnp.asarray(outputs.features) for outputs in (ctx.outputs, old)])
        features = jnp.where(s.ages[list(given)[-2]] != FREE, features, 0)
        labels = jnp.concatenate([batch["labels"], labels])
        weights = jnp.concatenate([batch["weights"], labels[-num:] < none])
        return weighted_mean(supervised_contrastive(features, labels, s.temperature, weights > 0), weights), {}

    def end(s, ts, ctx):
        index, classes = ctx.experience.index, ctx.spec.num_classes
        ages = {name: jnp.where(age > FREE, age + 1, FREE) for name, age in s.ages.items()}
        leaves = named(ts.params)
        for name, mask in s.masks.items():
            kernel, free = leaves[f"{name}.kernel"], ages[name] == FREE
            drawn = jax.random.normal(tag(ctx.rng, name), kernel.shape) * jnp.sqrt(2 / kernel.shape[-1])
            leaves[f"{name}.kernel"] = jnp.where(mask & free, drawn, kernel).astype(kernel.dtype)
            if f"{name}.bias" in leaves:
                leaves[f"{name}.bias"] = jnp.where(free, 0, leaves[f"{name}.bias"])
        ts = _put(ts, leaves)

        labels = each_row(ctx, lambda batch: batch["labels"], jnp.int32(classes))
        place = balanced(tag(ctx.rng, "kept"), labels, classes)[:size]
        kept, given = given_to_layers(ctx, ts.params, _fetch(ctx, place)["inputs"], model_state=ts.model_state)
        # What was replayed has other features now, the rows whose place is taken here included.
        dummy = jnp.zeros((recent * size, *ctx.spec.batch["inputs"].shape[1:]))
        again, _ = given_to_layers(ctx, ts.params, dummy, {layer: s.hidden.reshape(recent * size, -1)})
        last = _slots(index - 1, recent)
        features = s.features.at[jnp.where(last >= 0, last, len(s.features))].set(
            jnp.asarray(again.features).reshape(recent, size, -1), mode="drop"
        )
        return s._replace(
            ages=ages,
            hidden=s.hidden.at[index % recent].set(given[layer]),
            labels=s.labels.at[index].set(labels[place]),
            features=features.at[index].set(kept.features),
            units=s.units.at[index].set(ages[list(given)[-2]] > CHOSEN),
        ), ts

    def predict(s, ctx):
        mine = unit(ctx.outputs.features[:, None] * s.units)
        near = jnp.einsum("btd,tnd->btn", mine, unit(s.features * s.units[:, None]))
        known = s.labels < ctx.spec.num_classes
        near, at = jax.lax.top_k(jnp.where(known, near, -2).reshape(len(near), -1), neighbors)
        votes = jax.nn.one_hot(s.labels.reshape(-1)[at], ctx.spec.num_classes)
        # A quarter of a similarity never outweighs a vote.
        logits = votes.sum(1) + jnp.max(votes * (near + 1)[..., None] / 4, axis=1)
        return ctx.outputs._replace(logits=jnp.where(jnp.any(known), logits, ctx.outputs.logits))

    return Method(
        "sharp",
        init=init,
        begin=begin,
        update=update,
        end=end,
        loss=loss,
        predict=predict,
        problem=unasked,
        optimizer=only(moves),
        needs=("boundaries", "classes", "features"),
    )


def _check(layer: str, layers: list[str], given: Layers, params: PyTree, ctx: Context) -> None:
    if layer not in layers[:-1] or layers[-1] != "head":
        raise ValueError(
            f"sharp replays what a dense layer of a linen model is given, before its layer head, got layer={layer!r} "
            f"among {', '.join(layers) or 'none'}: choose one."
        )
    leaves = named(params)
    known = {f"{name}.{kind}" for name in layers for kind in ("kernel", "bias")}
    if leaves.keys() - known or jax.tree.leaves(ctx.model_state):
        others = ", ".join(sorted(leaves.keys() - known)) or "statistics"
        raise ValueError(f"sharp keeps units of dense layers, and the network has {others}: use a plain MLP.")
    for name, after in itertools.pairwise(layers):
        width = leaves[f"{name}.kernel"].shape[-1]
        if given[after].ndim != 2 or given[after].shape[-1] != width:
            raise ValueError(
                f"sharp expects each layer to be given the units of the one before, and {after} is given "
                f"{given[after].shape} where {name} has {width} units: use a plain MLP."
            )


def _fetch(ctx: Context, place: jax.Array) -> PyTree:
    """Rows of the experience."""
    return ctx.fetch({"row": ctx.experience.rows[place], "experience": ctx.experience.origin[place]})


def _put(ts: TrainState, leaves: Layers) -> TrainState:
    return ts._replace(params=jax.tree_util.tree_map_with_path(lambda path, _: leaves[name_of(path)], ts.params))


def _slots(last: jax.Array, recent: int) -> jax.Array:
    """The experience whose rows each slot holds after the experience `last`; negative where there is none."""
    return last - (last - jnp.arange(recent)) % recent

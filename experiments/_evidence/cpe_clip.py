"""CPE-CLIP: towers that stay, how much is trained; and what damping saves of the base in sessions of a few shots."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, optim, peft, streams
from experiments._evidence._common import Check, Claim, distance, gate, runs, trained
from experiments._evidence.scale_by_session import saved

TOP, LEGS, WHOLE, FOOT, HAND, SHORT, LONG, CLOSED, OPEN, NOTHING = range(10)
NAMES = (
    (TOP, SHORT, CLOSED),  # T-shirt
    (LEGS, LONG, CLOSED),  # trouser
    (TOP, LONG, CLOSED),  # pullover
    (WHOLE, LONG, CLOSED),  # dress
    (TOP, LONG, OPEN),  # coat
    (FOOT, SHORT, OPEN),  # sandal
    (TOP, SHORT, OPEN),  # shirt
    (FOOT, SHORT, CLOSED),  # sneaker
    (HAND, SHORT, OPEN),  # bag
    (FOOT, LONG, CLOSED),  # ankle boot
)
ORDER = (0, 1, 3, 8, 5, 9, 2, 7, 4, 6)  # the base has every word; the sessions join them anew
SIZES, STEPS, RATE, LENGTH, DEPTH, WIDTH = (6, 2, 2), 60, 0.1, 2, 2, 32


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `peft.cpe_clip`."""
    stream = streams.few_shot_class_incremental(
        streams.fashion_mnist(), 3, base_classes=6, class_order=ORDER, heads="seen"
    )
    bases = _of_captions(stream, seeds)
    tuned = core.Method("cpe_clip", model=peft.cpe_clip(LENGTH, DEPTH))

    def run(damping):
        tx = optax.chain(optax.sgd(RATE, momentum=0.9), optim.scale_by_session([STEPS] * 3, SIZES, damping=damping))
        method = core.chain(tuned, continual.local_loss())
        return runs(core.make_learner(_clip(NAMES), method, tx, stream, batch_size=32, steps=STEPS), seeds, bases)

    results = {"plain": run(0.0), "damped": run(1.0)}
    new = results["damped"].state.params["new"]
    numbers = sum(leaf[0].size for leaf in jax.tree.leaves(new))
    claimed = [
        gate(
            "what training moved of both towers (largest difference)",
            max(distance(r.state.frozen["params"], bases.params) for r in results.values()),
            most=0,
        ),
        gate(
            f"trained numbers ({numbers:,}) less those of {DEPTH} x {LENGTH} prompts and their map",
            numbers - (DEPTH * LENGTH * WIDTH + WIDTH * WIDTH + WIDTH),
            most=0,
        ),
    ]
    protocols = {
        "the classes seen": {name: 100 * np.asarray(r.accuracy)[:, -1] for name, r in results.items()},
        "the classes of its own session": {name: _own_session(r, stream) for name, r in results.items()},
    }
    for among, ends in protocols.items():
        drop = {name: 100 * np.asarray(results[name].accuracy)[:, 0, 0] - end[:, 0] for name, end in ends.items()}
        novel = {name: end[:, 1:].mean(1) for name, end in ends.items()}
        claimed += saved(
            "Fashion-MNIST, two towers taught 6 classes, then 2 sessions of 2 classes and 5 shots, rows told apart "
            f"from {among}",
            drop,
            novel,
        )
    return claimed


def _clip(names: Sequence[Sequence[int]]) -> core.Model:
    return core.from_linen(models.Clip(len(names), tuple(names), width=WIDTH, depth=DEPTH, vocabulary=1 + NOTHING))


def _of_captions(stream: core.Stream, seeds: Sequence[int]) -> core.Variables:
    """Towers taught by the first experience: an image is to find the parts of its own name among those of all."""
    masks = [mask for mask in itertools.product((True, False), repeat=3) if any(mask)]
    parts = [
        {tuple(w if kept else NOTHING for w, kept in zip(name, mask, strict=True)) for mask in masks} for name in NAMES
    ]
    captions = sorted(set().union(*(parts[c] for c in ORDER[: SIZES[0]])))
    table = np.array([[part in own for part in captions] for own in parts], np.float32)
    targets, model = jnp.asarray(table / table.sum(1, keepdims=True)), _clip(captions)

    def loss(s, params, ctx):
        batch = ctx.batch
        logits = model.apply(core.Variables(params, {}), batch["inputs"])[0].logits
        rows = optax.softmax_cross_entropy(logits, targets[batch["labels"]])
        return core.weighted_mean(rows, batch["weights"]), {}

    def unasked(plain):
        return core.Problem(lambda outputs, batch: jnp.zeros_like(batch["weights"]), plain.metrics)

    taught = core.Method("taught", loss=loss, problem=unasked)
    first = {name: jax.tree.map(lambda x: x[:1], part) for name, part in stream.experiences.items()}
    stream = stream._replace(experiences=first)
    learner = core.make_learner(_clip(NAMES), taught, optax.adam(1e-3), stream, batch_size=64, epochs=6)
    return trained(runs(learner, seeds))


def _own_session(result: core.Result, stream: core.Stream) -> np.ndarray:
    """Accuracy in percent [S, T] of the test rows of each session, each told apart from its classes alone."""
    test, model = stream.source.test, peft.cpe_clip(LENGTH, DEPTH)(_clip(NAMES))
    inputs, labels = jnp.asarray(test["inputs"], jnp.float32) / 255, test["labels"]
    session = np.empty(len(ORDER), int)
    session[list(ORDER)] = np.repeat(range(len(SIZES)), SIZES)
    own = jnp.asarray(session[labels][:, None] == session)

    def right(variables):
        answer = core.mask_logits(model.apply(variables, inputs)[0].logits, own).argmax(-1)
        return jnp.stack([(answer == labels)[session[labels] == t].mean() for t in range(len(SIZES))])

    return 100 * np.asarray(jax.jit(jax.vmap(right))(trained(result)))


CHECK = Check(
    "ctrain_jax.peft.cpe_clip",
    "D'Alessandro et al., Multimodal Parameter-Efficient Few-Shot Class Incremental Learning, ICCV workshops 2023, "
    "arXiv 2303.04751",
    claims,
    rows=(312,),
    seeds=tuple(range(10)),  # five tell too little of shots
)

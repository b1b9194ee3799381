"""SHARP: connections and units that stay; MNIST after a network of Fashion-MNIST, against replay of as many inputs."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, ops, testing
from experiments._evidence._common import Check, Claim, estimate, final, gate, means
from experiments._evidence._rehearsal_free import ADAM, ROWS, Digits

SIZE, RECENT, TASKS = 50, 2, 5
OPTIONS = {"size": SIZE, "recent": RECENT, "every": 16}


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.sharp`."""
    model = core.from_linen(models.MLP(10, hidden=(128, 128, 128)))
    digits = Digits(data_dir, seeds, model=model, optimizer=ADAM, epochs=5)
    methods = {
        "last": _last_rows(),
        "er": continual.er(SIZE * TASKS),
        "learning": continual.sharp("dense_1", **OPTIONS),
        "sharp": continual.sharp("dense_1", **OPTIONS, trained=True),
    }
    ends = {name: final(digits.run(method)) for name, method in methods.items()}
    where = (
        f"Split-MNIST ({ROWS:,} rows) in {TASKS} experiences of 5 epochs, from an MLP of Fashion-MNIST whose first "
        f"layer stays, {SIZE} activations of each of the last {RECENT} experiences"
    )
    number, weights, answers = _kept()
    return [
        gate("connections of a layer over all changes of them (largest difference)", number, most=0),
        gate(
            "AdamW with decay: weights and biases of units at rest in later experiences (largest change)",
            weights,
            most=0,
        ),
        gate("and their activations (largest change)", answers, most=1e-6),
        estimate(
            f"{where}: points of final accuracy above replay of as many inputs ({means(**ends)})",
            ends["sharp"] - ends["last"],
            least=5,
        ),
        estimate("the same where the first layer learns", ends["learning"] - ends["last"], least=5),
        estimate(
            "the same where it stays: above er with as many rows as features are kept in all",
            ends["sharp"] - ends["er"],
            least=0,
        ),
    ]


def _last_rows() -> core.Method:
    """Replay of as many inputs of the same experiences, under cross-entropy."""

    def init(rng, params, ctx):
        return {name: jnp.zeros((RECENT, SIZE), jnp.int32) for name in ("row", "experience")}

    def augment(s, batch, ctx):
        held = RECENT * SIZE
        at = ops.permute_index(ctx.rng, jnp.arange(ctx.spec.batch_size) % held, held)
        weights = (at // SIZE < ctx.experience.index).astype(jnp.float32)
        return ops.append_rows(batch, ctx.fetch({k: x.reshape(-1)[at] for k, x in s.items()}) | {"weights": weights})

    def end(s, ts, ctx):
        at = ops.permute_index(ctx.rng, jnp.arange(SIZE), ctx.experience.size)
        rows = {"row": ctx.experience.rows[at], "experience": ctx.experience.origin[at]}
        return {k: x.at[ctx.experience.index % RECENT].set(rows[k]) for k, x in s.items()}, ts

    return core.Method("last_rows", init=init, augment=augment, end=end, needs=("boundaries", "labels"))


def _kept() -> tuple[int, float, float]:
    """Over three experiences whose every second step changes connections."""
    model = core.from_linen(models.MLP(6, hidden=(24, 24, 24)))
    method = continual.sharp("dense_1", size=10, recent=1, share=0.5, period=5, every=2, rows=40)
    learner = core.make_learner(
        model, method, optax.adamw(1e-2, weight_decay=0.1), testing.standard_stream(), batch_size=8, epochs=2
    )
    data, state = core.to_device(learner.stream), core.start(learner)
    begin, chunk, end = (jax.jit(getattr(learner, name)) for name in ("begin", "chunk", "end"))
    inputs = jnp.asarray(learner.stream.source.test["inputs"])
    first = _masks(state)
    number, weights, answers, moved = 0, 0.0, 0.0, False
    resting, before = {}, None
    for t in range(3):
        state = begin(state, data, t)
        for i in range(learner.spec.steps[t]):
            state, _ = chunk(state, data, t, i, 1)
            now = _masks(state)
            number = max(number, *(abs(int(now[name].sum()) - int(mask.sum())) for name, mask in first.items()))
            moved = moved or any(np.any(now[name] != mask) for name, mask in first.items())
        state = end(state, data, t)
        now = _units(model, state, inputs)
        for name, rest in resting.items():
            own, old = now[name], before[name]
            change = [np.abs(a[..., rest] - b[..., rest]).max() for a, b in zip(own, old, strict=True)]
            weights, answers = max(weights, *map(float, change[:2])), max(answers, float(change[2]))
        s = state.method_state["sharp"]
        # Below the layer units rest from the end of their experience on, above it an experience later.
        resting = {name: np.asarray(age > (1 if name == "dense_0" else 2)) for name, age in s.ages.items()}
        before = now
        resting = {name: rest for name, rest in resting.items() if rest.any()}
    if not moved or resting.keys() != first.keys():
        raise AssertionError("No connection changed or no unit rests: the gates would hold for nothing.")
    return number, weights, answers


def _masks(state: core.TrainState) -> dict[str, np.ndarray]:
    return {name: np.asarray(mask) for name, mask in state.method_state["sharp"].masks.items()}


def _units(model: core.Model, state: core.TrainState, x: jax.Array) -> dict[str, tuple[np.ndarray, ...]]:
    """Kernel, bias and activations of each layer."""
    found = {}
    for name in state.method_state["sharp"].masks:
        kernel, bias = (np.array(state.params[name][kind]) for kind in ("kernel", "bias"))
        x = np.maximum(np.asarray(x) @ kernel + bias, 0)
        found[name] = kernel, bias, x
    return found


CHECK = Check(
    "ctrain_jax.continual.sharp",
    "Gurbuz, Moorman and Dovrolis, SHARP: Sparsity and Hidden Activation RePlay for Neuro-Inspired Continual Learning, "
    "2023, arXiv 2305.18563",
    claims,
    rows=(44,),
    data=True,
)

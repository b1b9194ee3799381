"""Adaptive EMA: its minimum, its limit, and what the slow copy keeps of rotated MNIST and of languages."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import Check, Claim, distance, estimate, final, gate, handwritten, means, runs
from experiments._evidence._text import on_text

# One run serves them all: none changes training.
PARTS = {
    "norms": continual.adaptive_ema(),
    "one": continual.adaptive_ema(per_block=False),
    "quadratic": continual.adaptive_ema("quadratic"),
    "strong": continual.adaptive_ema("quadratic", lam=1e4, per_block=False),  # lam found with other seeds
    **{f"fixed {decay}": continual.adaptive_ema(lam=np.inf, base=1 - decay) for decay in (0.9, 0.99, 0.999)},
}


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.adaptive_ema`."""
    found = _finals(seeds, data_dir)
    fixed = np.max([np.mean(values) for name, values in found.items() if name.startswith("fixed")])
    best = next(name for name, values in found.items() if name.startswith("fixed") and np.mean(values) == fixed)
    where = "rotated MNIST (10,000 rows), 5 angles from 0 to 180 degrees, MLP, 1 epoch each, Adam"
    result = [
        gate(
            '"quadratic" under SGD with momentum on a quadratic loss of diagonal Hessian: beta against the best of a '
            "grid (largest difference, 40 steps)",
            _grid(),
            most=1e-3,
        ),
        gate(
            "lam=inf is optax.incremental_update of the weights before each step (largest difference of a parameter)",
            _fixed(),
            most=1e-6,
        ),
    ]
    for name, text in (
        ("norms", f"{where}: of the slow copy, "),
        ("one", "the same with one alpha for all arrays: "),
    ):
        result.append(
            estimate(
                f"{text}points of final accuracy above the network that is trained "
                f"({means(naive=found['trained'], adaptive_ema=found[name])})",
                found[name] - found["trained"],
                least=3,
            )
        )
        result.append(
            estimate(
                f"the same: above the best fixed decay of 0.9, 0.99 and 0.999 ({means(**{best: found[best]})})",
                found[name] - found[best],
                least=-1,
            )
        )
    for name, text in (("quadratic", "lam=1"), ("strong", "lam=1e4 and one alpha")):
        result.append(
            estimate(
                f'the same, "quadratic" with {text}: points of final accuracy above the network that is trained '
                f"({means(**{name: found[name]})})",
                found[name] - found["trained"],
                least=3,
            )
        )
    return result + on_text("adaptive_ema", continual.adaptive_ema(), seeds, data_dir)


def _finals(seeds: Sequence[int], data_dir: str | None) -> dict[str, np.ndarray]:
    """Final accuracy in percent `[S]` of the trained network and of each slow copy."""
    stream = streams.rotated(handwritten(data_dir, 10_000), 5)
    watch = core.Method("watch", predict=lambda s, ctx: ctx.forward(ctx.params, ctx.batch["inputs"])[0])

    def learner(method):
        model = core.from_linen(models.MLP(10, hidden=(100, 100)))
        return core.make_learner(model, method, optax.adam(1e-3), stream, batch_size=32, epochs=1)

    result = runs(learner(core.chain(*PARTS.values(), watch)), seeds)
    plain, data = learner(core.identity()), core.to_device(stream)
    evaluate = jax.jit(core.mapped(lambda state, data: plain.evaluate(state, data, 4)["accuracy"], (0, None)))
    found = {"trained": final(result)}
    for name, own in zip(PARTS, result.state.method_state.values(), strict=False):
        state = result.state._replace(params=own.average, method_state={})
        found[name] = 100 * np.asarray(evaluate(state, data)).mean(-1)
    return found


HESSIAN, CENTRE = np.array([0.2, 0.5, 1.0, 2.0]), np.array([1.0, -2.0, 0.5, 3.0])


def _grid() -> float:
    """The largest distance of the chosen beta from the best of a grid."""
    model = core.Model(
        lambda rng, x: core.Variables({"w": jnp.zeros(4)}),
        lambda v, x, **options: (core.Outputs(jnp.broadcast_to(v.params["w"], (x.shape[0], 4))), ()),
    )
    problem = core.Problem(lambda out, batch: (HESSIAN * (out.logits - CENTRE) ** 2).sum(-1) / 2, lambda out, batch: {})
    stream = streams.class_incremental(streams.arrays(*[np.ones((40, 2), np.float32), np.arange(40) % 4] * 2), 1)
    method, tx = continual.adaptive_ema("quadratic"), optax.sgd(0.3, momentum=0.9)
    learner = core.make_learner(model, method, tx, stream, problem=problem, batch_size=4, steps=40)
    data, step, state = core.to_device(stream), jax.jit(learner.step), core.start(learner)
    off, grid = [], np.linspace(0, 1, 20001)[:, None]
    for i in range(40):
        now, before = (np.float64(x["w"]) for x in (state.params, state.method_state["adaptive_ema"].average))
        state, _ = step(state, data, 0, i)
        d = before - now
        if i == 0:
            continue  # both are one
        at = now + grid * d
        cost = (HESSIAN * (at - CENTRE) ** 2).sum(1) / 2 + ((at - before) ** 2).sum(1) / 2
        beta = (np.float64(state.method_state["adaptive_ema"].average["w"]) - now) @ d / (d @ d)
        off.append(abs(beta - grid[np.argmin(cost), 0]))
    return max(off)


def _fixed() -> float:
    """The largest difference from optax's average after the five experiences of digits."""
    reference = core.Method(
        "reference",
        init=lambda rng, params, ctx: params,
        update=lambda s, ts, ctx: (optax.incremental_update(ctx.params, s, 0.05), ts),
    )
    method = core.chain(continual.adaptive_ema(lam=np.inf, base=0.05), reference)
    stream = streams.class_incremental(streams.digits(), 5)
    learner = core.make_learner(core.from_linen(models.MLP(10, hidden=(32,))), method, optax.adam(1e-3), stream)
    own = runs(learner, [0]).state.method_state
    return distance(own["adaptive_ema"].average, own["reference"])


CHECK = Check(
    "ctrain_jax.continual.adaptive_ema",
    "Qiao, Zhang, Tan, Qu, Ding and Xie, Large Continual Instruction Assistant, ICML 2025, arXiv 2410.10868",
    claims,
    rows=(193,),
    data=True,
)

"""CTP: when the topology is preserved, what the slow network is; halves of digits that find each other at the end."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, ops, streams
from ctrain_jax.continual.representation import _ctp
from experiments._evidence._common import Check, Claim, distance, estimate, gate, handwritten, means, runs

ROWS, TESTS, EPOCHS, TEMPERATURE = 50_000, 1_000, 3, 0.2
MODEL = core.from_linen(models.TwoTower(32, hidden=(128,)))


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.ctp`."""
    stream = streams.class_incremental(handwritten(data_dir, ROWS), 5)
    pairs = jnp.asarray(stream.source.test["inputs"][:TESTS], jnp.float32) / 255

    def found(method):
        learner = core.make_learner(MODEL, method, optax.adam(2e-3), stream, batch_size=128, epochs=EPOCHS)
        params = runs(learner, seeds).state.params

        def one(params):
            return _ctp.retrieval(MODEL.apply(core.Variables(params, {}), pairs)[0].logits).mean()

        return 100 * np.asarray(jax.jit(jax.vmap(one))(params))

    plain = continual.ctp(0.0, alpha=0.0, temperature=TEMPERATURE)
    at_end = {"contrast": found(plain), "ctp": found(continual.ctp(temperature=TEMPERATURE))}
    where = (
        f"halves of digits (MNIST, {ROWS:,} rows) in 5 stages of {EPOCHS} epochs, two towers, temperature "
        f"{TEMPERATURE}: percent of {TESTS:,} test pairs of all stages that are found at the end (R@1), above contrast "
        "alone"
    )
    same, slope, turned = _topology()
    return [
        gate("topology: loss where nothing has moved (largest of a row)", same, most=1e-6),
        gate("the same: gradient (largest entry)", slope, most=1e-6),
        gate("topology: changed by one rotation of all places by (largest of a row)", turned, most=1e-5),
        gate("mix 0: the slow network less the closed form of the average (largest difference)", _average(), most=1e-6),
        estimate(f"{where} ({means(**at_end)})", at_end["ctp"] - at_end["contrast"], least=3),
    ]


def _topology() -> tuple[float, float, float]:
    rng = np.random.default_rng(0)
    now, before = (ops.unit(jnp.asarray(x, jnp.float32)) for x in rng.normal(size=(2, 32, 2, 8)))
    turn = jnp.asarray(np.linalg.qr(rng.normal(size=(8, 8)))[0], jnp.float32)

    def rows(places, then):
        return _ctp.topology_distance(places, then, jnp.float32(0.07), jnp.ones(32, bool))

    slope = jax.grad(lambda places: rows(places, now).mean())(now)
    return (
        float(jnp.abs(rows(now, now)).max()),
        float(jnp.abs(slope).max()),
        distance(rows(now @ turn, before), rows(now, before)),
    )


def _average() -> float:
    """Of a network that does not move, after 7 steps."""
    slow, params, teacher = ({"w": jnp.float32(x)} for x in ([3.0, -1.0], [1.0, 2.0], [50.0, 60.0]))
    start = slow["w"]
    for _ in range(7):
        slow = _ctp.compatible(slow, params, teacher, jnp.float32(0.9), jnp.float32(0))
    return distance(slow["w"], 0.9**7 * start + (1 - 0.9**7) * params["w"])


CHECK = Check(
    "ctrain_jax.continual.ctp",
    "Zhu et al., CTP: Towards Vision-Language Continual Pretraining via Compatible Momentum Contrast and Topology "
    "Preservation, ICCV 2023, arXiv 2308.07146",
    claims,
    rows=(54,),
    data=True,
)

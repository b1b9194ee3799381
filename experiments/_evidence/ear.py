"""EAR: codes tell angles, domains stay; digits, inverted ones, clothes: what grows, and whose rows find it."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, ops, testing
from experiments._evidence._common import (
    Check,
    Claim,
    distance,
    estimate,
    final,
    forgotten,
    gate,
    means,
    runs,
    trained,
)
from experiments._evidence._domains import ROWS, in_turn, worn, written

MEMORY = 200


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.ear`."""
    digits, clothes = [written(data_dir, part) for part in range(3)], worn()
    mean = digits[0].train["inputs"].mean(0) / 255

    def stream(*domains):
        made = in_turn(domains, 10)
        return made._replace(source=made.source._replace(mean=mean, std=0.25))

    model = core.from_linen(models.MLP(10, hidden=(128, 128)))
    domains = digits[0], digits[0].inverted(), clothes
    plain = core.make_learner(model, core.identity(), optax.adam(1e-3), stream(digits[2]), epochs=5)
    start = trained(runs(plain, seeds))

    def measured(method, over, **length):
        return runs(core.make_learner(model, method, optax.adam(3e-3), over, **length), seeds, start)

    gated = continual.ear(max_domains=4)
    own = measured(gated, stream(*domains), epochs=5)
    others = [measured(method, stream(*domains), epochs=5) for method in (core.identity(), continual.er(MEMORY))]
    again = measured(gated, stream(*digits[:2]), steps=1).state.method_state["ear"].domains
    ear, naive, er = map(final, (own, *others))
    lost = dict(zip(("naive", "er", "ear"), map(forgotten, (*others, own)), strict=True))
    state = own.state.method_state["ear"]
    found, outside = [], []
    for k in range(len(seeds)):
        near = [_near(model, jax.tree.map(lambda x, k=k: x[k], (start, state)), domain, mean) for domain in domains]
        found.append(100 * np.mean([np.mean(x.argmax(1) == t) for t, x in enumerate(near)]))
        outside.append(np.mean(near[0][:, None, 0] > near[2][None, :, 0]))
    where = (
        f"MNIST, the same inverted, Fashion-MNIST ({ROWS:,} rows each, the same ten outputs, 5 epochs), pixels less "
        "their mean, MLP of other digits"
    )
    return [
        gate("cosines of 10,000 random signs less those of angles, 100 pairs (root mean square)", _angles(), most=0.01),
        gate("AdamW and BatchNorm move neither the encoder nor what earlier domains have (largest)", _kept(), most=0),
        estimate(f"{where}: AUROC of the first against the last, by the gate of the first", outside, least=0.9),
        estimate("the same: adaptors", (state.choices >= 0).sum(-1), least=2),
        estimate("more of MNIST after MNIST: domains", again, most=1),
        estimate("the same stream: percent of test rows that find their domain", found, least=95),
        estimate(f"the same: points of forgetting, by the search alone ({means(**lost)})", lost["ear"], most=5),
        estimate(
            f"the same: points of final accuracy above naive ({means(naive=naive, ear=ear)})", ear - naive, least=10
        ),
        estimate(f"the same: above er with {MEMORY} rows ({means(er=er)})", ear - er, least=0),
    ]


def _near(model: core.Model, known, domain, mean: np.ndarray) -> np.ndarray:
    """How near test rows are to each domain [B, K]."""
    variables, s = known
    inputs = (jnp.asarray(domain.test["inputs"]) / 255 - mean) / 0.25
    codes = ops.hdc_encode(model.apply(variables, inputs)[0].features - s.centre, s.projection)
    cosines = jnp.einsum("bh,kch->bkc", codes, s.prototypes) / math.sqrt(codes.shape[-1])
    return np.asarray(jnp.where(s.classes, cosines, -jnp.inf).max(-1))


def _angles() -> float:
    pairs, signs = jax.random.split(jax.random.key(0))
    x, y = jax.random.normal(pairs, (2, 100, 64))
    y = y + jnp.linspace(-3, 3, 100)[:, None] * x
    codes = ops.hdc_encode(jnp.stack([x, y]), jax.random.rademacher(signs, (64, 10_000), jnp.int8))
    cosines = np.asarray((ops.unit(x) * ops.unit(y)).sum(-1), np.float64)
    off = (codes[0] * codes[1]).mean(-1) - (1 - 2 * np.arccos(cosines) / np.pi)
    return float(np.sqrt(np.mean(np.square(off))))


def _kept() -> float:
    method = continual.ear(max_domains=3, dim=64, threshold=1e-3, space=((8,), (4, 4)), rows=6)
    stream = testing.standard_stream()
    learner = core.make_learner(
        testing.standard_model(), method, optax.adamw(1e-2, weight_decay=0.1), stream, batch_size=8
    )
    data, state = core.to_device(stream), core.start(learner)
    encoder = jax.tree.map(np.array, (state.frozen["params"], state.model_state))
    two = core.run_experience(learner, core.run_experience(learner, state, data, 0), data, 1)
    left = jax.tree.map(np.array, _first(two.method_state["ear"]))
    last = core.run_experience(learner, two, data, 2)
    s = last.method_state["ear"]
    if int(s.domains) != 3 or int((s.choices >= 0).sum()) != 2:
        raise AssertionError("A domain was not found new: the gate would hold for nothing.")
    return max(distance(encoder, (last.frozen["params"], last.model_state)), distance(left, _first(s)))


def _first(s):
    """What the first two domains have."""
    return jax.tree.map(lambda x: x[:2], (s.parts, s.prototypes, s.mean, s.scale, s.choices))


CHECK = Check(
    "ctrain_jax.continual.ear",
    "Daniels et al., Efficient Model Adaptation for Continual Learning at the Edge, 2023, arXiv 2308.02084",
    claims,
    rows=(162,),
    data=True,
)

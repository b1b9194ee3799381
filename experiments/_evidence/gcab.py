"""GCAB: protected units, drift that is led back, gates alone and with compensation on class-incremental Split-MNIST."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from ctrain_jax.continual.architecture import _gated
from experiments._evidence._common import (
    Check,
    Claim,
    distance,
    estimate,
    final,
    gate,
    handwritten,
    means,
    runs,
    trained,
)

TESTS = 2_000
MODEL = core.from_linen(models.MLP(10, hidden=(100, 48)))


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.gcab`."""
    source = handwritten(data_dir, 5_000)
    source = source._replace(test={name: leaf[:TESTS] for name, leaf in source.test.items()})
    stream = streams.class_incremental(source, 5)

    def measured(method):
        learner = core.make_learner(MODEL, method, optax.adam(1e-3), stream, batch_size=32, epochs=5)
        return runs(learner, seeds)

    plain, alone, whole = map(
        measured, (core.identity(), continual.gcab(5, lam=0.0, compensate=False), continual.gcab(5))
    )
    found = {"naive": final(plain), "gates": final(alone), "gcab": final(whole)}
    known = {"gates": _known(alone, source), "distilled": _known(whole, source, False), "gcab": _known(whole, source)}
    unmoved, answers = _protected()
    linear, still = _led_back()
    where = "class-incremental Split-MNIST (5,000 rows) in 5 experiences of 5 epochs, MLP of 100 and 48, no rows kept"
    return [
        gate("AdamW: weights between protected units in later experiences (largest change)", unmoved, most=0),
        gate("and the first experience's answers from the features that it had (largest difference)", answers, most=0),
        gate("old features after two affine drifts, led back by two fits (largest difference)", linear, most=1e-3),
        gate("the fit of features that did not move, less the identity (largest difference)", still, most=0),
        estimate(
            f"{where}: points of final accuracy of gates alone above naive ({means(**found)})",
            found["gates"] - found["naive"],
            least=10,
        ),
        estimate("the same: gates and compensation above gates alone", found["gcab"] - found["gates"], least=2),
        estimate(
            "the same networks, a row told apart from the classes of its experience: above gates alone "
            f"({means(**known)})",
            known["gcab"] - known["gates"],
            least=2,
        ),
        estimate("and above the same network without projections", known["gcab"] - known["distilled"], least=2),
    ]


def _known(result: core.Result, source: core.Source, projected: bool = True) -> np.ndarray:
    """Final accuracy `[S]`, in percent, where the experience of a row is known."""
    model = continual.gcab(5).model(MODEL)
    inputs, labels = jnp.asarray(source.test["inputs"]) / 255, jnp.asarray(source.test["labels"])

    def one(variables):
        frozen = variables.frozen
        if not projected:
            frozen = frozen | {"back": jax.tree.map(lambda bank: jnp.broadcast_to(bank[0], bank.shape), frozen["back"])}
        logits = model.apply(variables._replace(frozen=frozen), inputs)[0].logits
        told = frozen["owner"] == frozen["owner"][labels][:, None]
        return 100 * jnp.mean(core.mask_logits(logits, told).argmax(-1) == labels)

    return np.asarray(jax.jit(lambda every: jax.lax.map(one, every))(trained(result)))


def _protected() -> tuple[float, float]:
    """Of two experiences that follow the first."""
    stream = streams.class_incremental(streams.digits(), 5)
    model = core.from_linen(models.MLP(10, hidden=(16,)))
    learner = core.make_learner(model, continual.gcab(5), optax.adamw(1e-2), stream, batch_size=32)
    data, state = core.to_device(stream), core.start(learner)
    rows = jax.random.normal(jax.random.key(0), (50, 1, 16))
    kept, units, moved = {}, {}, 0.0

    @jax.jit
    def answers(gated, masks):
        gates = {name: bank[0].astype(jnp.float32) for name, bank in masks.items()}
        features = _gated.class_attention(gated["block"], gates, gated["tokens"][0], rows, 4)
        return features @ gated["head"]["kernel"][:, :2] + gated["head"]["bias"][:2]

    for t in range(3):
        state = core.run_experience(learner, state, data, t)
        gated, masks = state.params["gated"], state.frozen["masks"]
        if t == 0:
            first = np.asarray(answers(gated, masks))
        for name, (before, after) in _gated.SIDES.items():
            kernel = np.asarray(gated["block"][name]["kernel"])
            if t > 0:
                held = units[before][:, None] & units[after]
                moved = max(moved, float(np.abs(kernel - kept[name])[held].max()))
            kept[name] = kernel
        units = {name: np.asarray(bank).any(0) for name, bank in masks.items()}
    return moved, distance(first, answers(gated, masks))


def _led_back() -> tuple[float, float]:
    """Of 500 rows that drift twice, and of 500 that do not."""
    rng, ones = np.random.default_rng(0), jnp.ones(500)
    seen = [jnp.asarray(rng.normal(size=(500, 16)), jnp.float32)]
    for _ in range(2):
        turned = np.eye(16) + 0.1 * rng.normal(size=(16, 16))
        seen.append(jnp.asarray(seen[-1] @ turned + rng.normal(size=16), jnp.float32))

    def fit(new, old):
        return _gated.drift_projection(_gated.add_pairs(_gated.no_pairs(16), new, old, ones), jnp.float32(1e-4))

    fits = [fit(seen[0], seen[0]), fit(seen[1], seen[0]), fit(seen[2], seen[1])]
    led = _gated.cascade(seen[2], jax.tree.map(lambda *parts: jnp.stack(parts), *fits))
    identity = {"kernel": jnp.eye(16), "bias": jnp.zeros(16)}
    return distance(led[0], seen[0]), distance(fits[0], identity)


CHECK = Check(
    "ctrain_jax.continual.gcab",
    "Cotogni et al., Exemplar-free Continual Learning of Vision Transformers via Gated Class-Attention and Cascaded "
    "Feature Drift Compensation, 2022, arXiv 2211.12292",
    claims,
    rows=(47,),
    seeds=tuple(range(10)),
    data=True,
)

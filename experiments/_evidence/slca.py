"""SLCA: what is exact, and MNIST after a network of Fashion-MNIST: slow and aligned, slow, at one rate."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, losses, models, ops, testing
from experiments._evidence._common import Check, Claim, distance, estimate, final, gate, means
from experiments._evidence._rehearsal_free import ROWS, Digits

RATES = (1e-3, 1e-2, 1e-1)


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.slca`."""
    model = core.from_linen(models.MLP(10, hidden=(256, 128)))
    digits = Digits(data_dir, seeds, model=model, optimizer=optax.sgd(1.0, 0.9), epochs=3)

    def at(rate, method):
        return core.chain(core.Method("rate", optimizer=core.after(optax.scale(rate))), method)

    def chosen(method):
        return digits.best(lambda rate: at(rate, method), RATES)

    slow, equal = continual.slca(steps=0), continual.slca(1.0, steps=0)
    rate = chosen(slow)
    run = {"aligned": at(rate, continual.slca()), "slow": at(rate, slow), "equal": at(chosen(equal), equal)}
    accuracy = {name: final(digits.run(method)) for name, method in run.items()}
    where = (
        f"Split-MNIST ({ROWS:,} rows) in 5 experiences of 3 epochs, from an MLP of Fashion-MNIST, SGD, rates chosen on "
        "the first two"
    )
    mean, covariance = _recovered()
    return [
        gate("means of 20,000 samples of a known Gaussian (largest relative difference of a class)", mean, most=0.02),
        gate("and covariances", covariance, most=0.02),
        gate("an alignment leaves the network as it is (largest difference of a parameter)", _moved(), most=0),
        gate("logits of a row times 7.3 have the same loss (largest difference)", _scaled(), most=1e-5),
        estimate(
            f"{where}: points of final accuracy above the slow learner alone ({means(**accuracy)})",
            accuracy["aligned"] - accuracy["slow"],
            least=3,
        ),
        estimate(
            "the same: the slow learner alone above one rate for all",
            accuracy["slow"] - accuracy["equal"],
            least=3,
        ),
    ]


def _recovered() -> tuple[float, float]:
    """Differences of means and covariances from the truth, in Frobenius norm over that of the truth."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(3, 6)) * 3
    mixing = rng.normal(size=(3, 6, 6))
    found = ops.class_gaussians(3, 6)
    for _ in range(60):
        labels = rng.integers(0, 3, 1000)
        rows = means[labels] + np.einsum("nd,ned->ne", rng.normal(size=(1000, 6)), mixing[labels])
        found = ops.add_to_gaussians(found, jnp.asarray(rows, jnp.float32), jnp.asarray(labels), jnp.ones(1000))

    def off(got, wanted):
        ratio = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(np.asarray(got), wanted, strict=True)]
        return float(max(ratio))

    return off(found.means, means), off(found.covariances, mixing @ mixing.transpose(0, 2, 1))


def _moved() -> float:
    learner = core.make_learner(
        testing.standard_model(), continual.slca(), optax.adamw(1e-2), testing.standard_stream(), batch_size=8
    )
    data = core.to_device(learner.stream)
    state = core.run_experience(learner, core.start(learner), data, 0)
    last = jnp.int32(1)
    begun = jax.jit(learner.begin)(state, data, last)
    trained, _ = jax.jit(learner.chunk)(begun, data, last, 0, learner.spec.steps[1])
    before = jax.tree.map(np.asarray, (trained.params, trained.model_state))
    after = jax.jit(learner.end)(trained, data, last)
    return distance(before, (after.params, after.model_state))


def _scaled() -> float:
    logits = jax.random.normal(jax.random.key(0), (100, 10))
    labels = jnp.arange(100) % 10
    return distance(*(losses.normalized_cross_entropy(k * logits, labels) for k in (1.0, 7.3)))


CHECK = Check(
    "ctrain_jax.continual.slca",
    "Zhang et al., SLCA: Slow Learner with Classifier Alignment for Continual Learning on a Pre-trained Model, ICCV "
    "2023, arXiv 2303.05118",
    claims,
    rows=(73,),
    data=True,
)

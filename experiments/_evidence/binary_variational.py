"""Binary variational: its divergence and its probabilities are exact; what a prior keeps of a teacher, of MNIST."""

import itertools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from ctrain_jax.continual.regularization._binary_variational import kl, moments
from experiments._evidence._common import Check, Claim, estimate, final, forgotten, gate, handwritten, means, runs

WEIGHT = 0.1  # of 0.01, 0.1 and 1 the best final accuracy over seeds 100 and 101
SIZE, ROWS = 500, 1500


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.binary_variational`."""
    apart, flat_gradient = _divergence()
    prior, flat = (_overlaps(method, seeds) for method in (continual.binary_variational(), _flat()))
    stream = streams.permuted(handwritten(data_dir, 10_000), 3)

    def learner(weight):
        model = core.from_linen(models.MLP(10, hidden=(100, 100)))
        method = continual.binary_variational(weight)
        return core.make_learner(model, method, optax.adam(1e-2), stream, batch_size=32, epochs=1)

    own, plain = (runs(learner(weight), seeds) for weight in (WEIGHT, 0.0))
    return [
        gate(
            "the divergence against the sum over all 2^10 states of 10 weights (largest difference, relative)",
            apart,
            most=1e-6,
        ),
        gate("its largest derivative at the prior itself", flat_gradient, most=1e-6),
        gate(
            "probability that a unit of 100 or 400 weights is positive, from its moments, against 100,000 draws of "
            "weights (largest difference, 10 inputs each)",
            max(_probability(100), _probability(400)),
            most=0.01,
        ),
        estimate(
            f"two teachers of {SIZE} binary weights that agree in 3 of 4, {ROWS} rows: overlap of a unit with the "
            "first after the second, above that with a flat prior "
            f"(prior {prior[:, 0].mean():.2f}, flat {flat[:, 0].mean():.2f}; "
            f"with the second {prior[:, 1].mean():.2f}, {flat[:, 1].mean():.2f})",
            prior[:, 0] - flat[:, 0],
            least=0.1,
        ),
        estimate(
            "permuted MNIST (10,000 rows), 3 experiences, MLP of binary weights, 1 epoch each, Adam, "
            f"weight={WEIGHT:g}: points of forgetting less than fields without a prior "
            f"({means(plain=forgotten(plain), prior=forgotten(own))})",
            forgotten(plain) - forgotten(own),
            least=0,
        ),
        estimate(
            f"the same: points of final accuracy above them ({means(plain=final(plain), prior=final(own))})",
            final(own) - final(plain),
            least=0,
        ),
    ]


def _flat() -> core.Method:
    """The prior of each experience is that of the first: fields of 0."""
    return continual.binary_variational()._replace(end=lambda s, ts, ctx: (s, ts))


def _divergence() -> tuple[float, float]:
    rng, states = np.random.default_rng(0), np.array(list(itertools.product((-1, 1), repeat=10)))
    apart = []
    for theta, prior in rng.normal(size=(20, 2, 10)):
        log_q, log_p = (states @ field - np.log(2 * np.cosh(field)).sum() for field in (theta, prior))
        expected = np.sum(np.exp(log_q) * (log_q - log_p))
        apart.append(abs(float(kl(*map(jnp.float32, (theta, prior)))) / expected - 1))
    theta = jnp.asarray(rng.normal(size=100), jnp.float32)
    return max(apart), float(jnp.abs(jax.grad(kl)(theta, theta)).max())


def _probability(size: int) -> float:
    rng = np.random.default_rng(size)
    theta, x = rng.normal(size=(size, 1)), rng.normal(size=(10, size))
    positive = np.zeros(10)
    for _ in range(100):
        drawn = np.where(rng.random((1000, size)) < (1 + np.tanh(theta.T)) / 2, 1.0, -1.0)
        positive += np.sum(drawn @ x.T > 0, axis=0) / 1e5
    mean, deviation = (np.float64(part)[:, 0] for part in moments(*map(jnp.float32, (theta, x))))
    expected = np.array([math.erfc(-z / math.sqrt(2)) / 2 for z in mean / deviation])
    return float(np.abs(positive - expected).max())


class Perceptron(nn.Module):
    """One unit; classes 0 and 2 are where it is negative, 1 and 3 where it is positive."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        """Logits `[B, 4]`."""
        z = 4 * nn.Dense(1, use_bias=False, name="unit")(x)
        return jnp.concatenate([-z, z, -z, z], axis=-1) / 2


def _overlaps(method: core.Method, seeds: Sequence[int]) -> np.ndarray:
    """Overlap of the student with either teacher after both, `[S, 2]`."""
    run, found = None, []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        first = rng.choice([-1.0, 1.0], SIZE)
        second = np.where(rng.permutation(SIZE) < SIZE // 4, -first, first)
        inputs = rng.choice([-1.0, 1.0], (2 * ROWS, SIZE)).astype(np.float32)
        labels = np.concatenate([inputs[:ROWS] @ first > 0, 2 + (inputs[ROWS:] @ second > 0)]).astype(np.int32)
        stream = streams.class_incremental(streams.arrays(inputs, labels, inputs, labels), 2)
        learner = core.make_learner(
            core.from_linen(Perceptron()), method, optax.adam(2e-2), stream, batch_size=50, steps=1200
        )
        run = run or jax.jit(lambda key, data, learner=learner: core.run_fused(learner, data, key).state.params)
        student = np.sign(np.float64(run(jax.random.key(seed), core.to_device(stream))["unit"]["kernel"])[:, 0])
        found.append((student @ first / SIZE, student @ second / SIZE))
    return np.array(found)


CHECK = Check(
    "ctrain_jax.continual.binary_variational",
    "Li, Huang, Zou and Huang, Statistical mechanics of continual learning: variational principle and mean-field "
    "potential, 2022, arXiv 2212.02846",
    claims,
    rows=(209,),
    data=True,
)

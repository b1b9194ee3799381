"""The effective rank where it is known, and whether it picks the encoder that a linear probe would."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats
from sklearn.linear_model import RidgeClassifier

from ctrain_jax import analysis, models, streams
from experiments._evidence._common import Check, Claim, estimate, gate, means

# VICReg's weights of invariance, variance and covariance: the paper's own, and others of which some collapse.
WEIGHTS = (
    (25.0, 25.0, 1.0),
    (25.0, 25.0, 10.0),
    (25.0, 25.0, 0.0),
    (25.0, 5.0, 1.0),
    (25.0, 1.0, 1.0),
    (25.0, 1.0, 0.0),
    (25.0, 0.1, 0.0),
    (25.0, 0.0, 0.0),
)
STEPS, BATCH = 400, 128


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `analysis.rankme`."""
    ranks, probes = _encoders(seeds)
    picked = probes[np.arange(len(seeds)), ranks.argmax(1)]
    correlation = [stats.spearmanr(r, p).statistic for r, p in zip(ranks, probes, strict=True)]
    runs = ", ".join(f"{r:.1f}/{p:.1f}" for r, p in zip(ranks.mean(0), probes.mean(0), strict=True))
    return [
        gate(
            "equal singular values in 1, 4 and 16 directions of 16: their number (largest error)", _equal(), most=1e-4
        ),
        gate("rotated and scaled features: the same number (largest relative error)", _invariant(), most=1e-4),
        estimate(
            "eight VICReg encoders on digits, some of them collapsed: Spearman's correlation of RankMe and accuracy of "
            f"a linear probe (rank/accuracy {runs})",
            correlation,
            least=0.5,
        ),
        estimate(
            "the same: points that the encoder of the largest rank lacks to the best one "
            f"({means(picked=picked, best=probes.max(1))})",
            probes.max(1) - picked,
            most=2,
        ),
    ]


def _equal() -> float:
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(n, 16)))[0] for n in (64, 16))
    return max(abs(float(analysis.rankme(left[:, :r] @ right[:, :r].T)) - r) for r in (1, 4, 16))


def _invariant() -> float:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(100, 12)) * np.arange(1, 13)
    rank = float(analysis.rankme(features))
    turned = features @ np.linalg.qr(rng.normal(size=(12, 12)))[0]
    return max(abs(float(analysis.rankme(x)) / rank - 1) for x in (turned, 1e3 * features, 1e-3 * turned))


def _encoders(seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """RankMe of the embeddings and accuracy of a linear probe on the features, both `[S, 8]`."""
    source = streams.digits()
    images, tests = (jnp.asarray(part["inputs"] / 255.0, jnp.float32) for part in (source.train, source.test))
    model = models.MLP(64, hidden=(128, 64))  # its head is the projector
    tx = optax.adam(1e-3)

    def view(rng, batch):
        """Moved by a pixel at most, noisy, a fifth of the pixels dark."""
        move, noise, dark = jax.random.split(rng, 3)
        padded = jnp.pad(batch, ((0, 0), (1, 1), (1, 1)))
        at = jax.random.randint(move, (len(batch), 2), 0, 3)
        moved = jax.vmap(lambda x, k: jax.lax.dynamic_slice(x, k, (8, 8)))(padded, at)
        noisy = moved + 0.1 * jax.random.normal(noise, batch.shape)
        return noisy * jax.random.bernoulli(dark, 0.8, batch.shape)

    def loss(params, weights, rng, batch):
        pair = [model.apply(params, view(k, batch)).logits for k in jax.random.split(rng)]
        invariance = jnp.mean((pair[0] - pair[1]) ** 2)
        variance = covariance = 0.0
        for z in pair:
            z = z - z.mean(0)
            spread = z.T @ z / (BATCH - 1)
            variance += jnp.mean(jax.nn.relu(1 - jnp.sqrt(jnp.diagonal(spread) + 1e-4))) / 2
            covariance += (jnp.sum(spread**2) - jnp.sum(jnp.diagonal(spread) ** 2)) / 64
        return weights @ jnp.stack([invariance, variance, covariance])

    def train(weights, rng):
        params = model.init(rng, images[:1])

        def step(carry, n):
            params, state = carry
            rows, views = jax.random.split(jax.random.fold_in(rng, n))
            batch = images[jax.random.choice(rows, len(images), (BATCH,), replace=False)]
            updates, state = tx.update(jax.grad(loss)(params, weights, views, batch), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(STEPS))
        known, new = model.apply(params, images), model.apply(params, tests)
        return analysis.rankme(known.logits), known.features, new.features

    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    every = jax.vmap(jax.vmap(train, (0, None)), (None, 0))
    ranks, known, new = (np.asarray(x) for x in jax.jit(every)(jnp.array(WEIGHTS), keys))
    labels, asked = source.train["labels"], source.test["labels"]
    probes = [
        [100 * RidgeClassifier().fit(a, labels).score(b, asked) for a, b in zip(*one, strict=True)]
        for one in zip(known, new, strict=True)
    ]
    return ranks, np.array(probes)


CHECK = Check(
    "ctrain_jax.analysis.rankme",
    "Garrido, Balestriero, Najman and LeCun, RankMe: Assessing the Downstream Performance of Pretrained "
    "Self-Supervised Representations by Their Rank, ICML 2023, arXiv 2210.02885",
    claims,
    rows=(77,),
)

"""Selfless learning: the penalty pair by pair; permuted MNIST with mas, above mas alone, and from fewer units."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from ctrain_jax.continual.regularization._selfless import inhibition
from experiments._evidence._common import (
    Check,
    Claim,
    distance,
    estimate,
    final,
    forgotten,
    gate,
    handwritten,
    means,
    runs,
)

ROWS, TESTS, UNITS = 4_000, 1_000, 64
STRENGTHS = (0.003, 0.01, 0.03)  # of mas


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.selfless`."""
    source = handwritten(data_dir, ROWS)
    source = source._replace(test={name: leaf[:TESTS] for name, leaf in source.test.items()})
    stream = streams.permuted(source, 5)
    model = core.from_linen(models.MLP(10, hidden=(UNITS, UNITS)))

    def best(*methods):
        """The run of the strength of mas that is best in the mean over seeds, and that strength."""
        learners = [
            core.make_learner(
                model, core.chain(continual.mas(lam), *methods), optax.adam(1e-3), stream, batch_size=32, epochs=3
            )
            for lam in STRENGTHS
        ]
        found = [runs(learner, seeds) for learner in learners]
        at = int(np.argmax([final(result).mean() for result in found]))
        return found[at], STRENGTHS[at]

    (mas, without), (own, beside) = best(), best(continual.selfless())
    silent = {name: _silent(result, stream) for name, result in (("mas", mas), ("selfless", own))}
    return [
        gate("the penalty against a loop over pairs of units (largest difference, relative)", _pairs(), most=1e-5),
        gate("lam=0 is plain training (largest difference of a parameter)", _plain(), most=1e-6),
        estimate(
            f"permuted MNIST ({ROWS:,} rows), 5 experiences, MLP of twice {UNITS} units, 3 epochs each, Adam, the best "
            f"of {len(STRENGTHS)} strengths of mas for each: points of final accuracy above mas alone "
            f"({means(mas=final(mas), selfless=final(own))}; lam={without:g} and {beside:g})",
            final(own) - final(mas),
            least=1,
        ),
        estimate(
            f"the same: points more of its hidden activations that are 0 ({means(**silent)})",
            silent["selfless"] - silent["mas"],
            least=10,
        ),
        estimate(
            f"the same: points of forgetting less than it ({means(mas=forgotten(mas), selfless=forgotten(own))})",
            forgotten(mas) - forgotten(own),
            least=0,
        ),
    ]


def _silent(result: core.Result, stream: core.Stream) -> np.ndarray:
    """Of the hidden activations on test rows of the last experience those that are 0, in percent `[S]`."""
    images = np.asarray(stream.source.test["inputs"], np.float32).reshape(TESTS, -1) / 255
    x = images[:, np.asarray(stream.origins.view)[-1]]
    p = jax.tree.map(np.asarray, result.state.params)
    first = np.maximum(x @ p["dense_0"]["kernel"] + p["dense_0"]["bias"][:, None], 0)
    second = np.maximum(first @ p["dense_1"]["kernel"] + p["dense_1"]["bias"][:, None], 0)
    return 100 * np.mean(np.concatenate([first, second], -1) == 0, (1, 2))


def _pairs() -> float:
    rng = np.random.default_rng(0)
    h, alpha, share = rng.normal(size=(9, 12)), rng.uniform(0, 2, 12), rng.uniform(size=9)
    sigma, total = 1 / 6, 0.0
    for i in range(12):
        for j in range(12):
            near = np.exp(-((i - j) ** 2) / (2 * (sigma * 12) ** 2)) * (i != j)
            total += near * np.exp(-alpha[i] - alpha[j]) * abs(np.sum(share * h[:, i] * h[:, j]))
    own = inhibition(jnp.asarray(h), jnp.exp(-jnp.asarray(alpha)), jnp.float32(sigma), jnp.asarray(share))
    return float(abs(own - total) / total)


def _plain() -> float:
    stream, model = streams.class_incremental(streams.digits(), 3), core.from_linen(models.MLP(10, hidden=(16,)))
    learners = (
        core.make_learner(model, method, optax.adam(1e-2), stream)
        for method in (core.identity(), continual.selfless(0.0))
    )
    return distance(*(core.run_stream(learner).state.params for learner in learners))


CHECK = Check(
    "ctrain_jax.continual.selfless",
    "Aljundi, Rohrbach and Tuytelaars, Selfless Sequential Learning, ICLR 2019, arXiv 1806.05421",
    claims,
    rows=(291,),
    data=True,
)

"""Thresholdout without noise, and the experiment of its authors in small: features chosen by the holdout."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax import metrics
from experiments._evidence._common import Check, Claim, estimate, gate

ROWS, FEATURES, CHOSEN, INFORMATIVE = 2000, 2000, 200, 20
DRAWS = 20  # of the noise for each data set


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `metrics.thresholdout`."""
    null, signal = (np.array([_selected(seed, bias) for seed in seeds]).T for bias in (0.0, 6.0))
    plain, fresh, guarded, guarded_fresh = null
    where = f"no signal, {ROWS} rows, at most {CHOSEN} of {FEATURES} random features that train and holdout agree on"
    excess = [signal[0] - signal[1], signal[2] - signal[3]]
    return [
        gate(
            "no noise, equal means of train and holdout: answered by the train mean, and the budget untouched (1: yes)",
            _equal_means(),
            least=1,
        ),
        gate(
            "no noise: the holdout's own mean where they differ by more than the threshold, a unit of the budget each "
            "time, and no answer when it is spent (1: yes)",
            _spent(),
            least=1,
        ),
        estimate(f"{where}: accuracy that the plain holdout reports (fresh data {fresh.mean():.1f})", plain, least=60),
        estimate("the same: points between 50 and the accuracy on fresh data", np.abs(fresh - 50), most=3),
        estimate(
            f"the same, each question through Thresholdout: accuracy that it reports, the mean over {DRAWS} draws of "
            f"its noise (fresh {guarded_fresh.mean():.1f})",
            guarded,
            most=57,
        ),
        estimate(
            f"{INFORMATIVE} features with a signal of 6 / sqrt(n): points that Thresholdout overstates less than the "
            f"plain holdout (plain {excess[0].mean():.1f}, Thresholdout {excess[1].mean():.1f})",
            excess[0] - excess[1],
            least=1,
        ),
    ]


def _ask(holdout: metrics.Thresholdout, train: jax.Array, held: jax.Array, rng: jax.Array):
    """Answers to all questions in order, and the last state."""

    def step(state, question):
        answer, state = holdout.query(state, *question)
        return state, answer

    keys = jax.random.split(rng, len(train) + 1)
    state, answers = jax.lax.scan(step, holdout.init(keys[0]), (train, held, keys[1:]))
    return answers, state


def _equal_means() -> bool:
    means = jnp.linspace(-1, 1, 100)
    answers, state = _ask(metrics.thresholdout(0.0, 0.0, budget=1), means, means, jax.random.key(0))
    return bool(jnp.all(answers == means)) and int(state.budget) == 1


def _spent() -> bool:
    train, held = jnp.array([0.5, 0.9, 0.1, 0.9]), jnp.array([0.5, 0.7, 0.4, 0.5])
    answers, state = _ask(metrics.thresholdout(0.1, 0.0, budget=2), train, held, jax.random.key(0))
    return (
        answers[:3].tolist() == jnp.array([0.5, 0.7, 0.4]).tolist() and bool(jnp.isnan(answers[3])) and not state.budget
    )


def _selected(seed: int, bias: float) -> tuple[float, float, float, float]:
    """Accuracies in percent: plain holdout, fresh data, and the means of both where Thresholdout was asked."""
    rng, root = np.random.default_rng(seed), 1 / np.sqrt(ROWS)
    parts = []
    for _ in range(3):
        labels = rng.choice([-1.0, 1.0], ROWS)
        inputs = rng.normal(size=(ROWS, FEATURES))
        inputs[:, :INFORMATIVE] += bias * root * labels[:, None]
        parts.append((inputs, labels))
    train, held, _ = (x.T @ y / ROWS for x, y in parts)
    holdout = metrics.thresholdout(2 * root, 0.5 * root, budget=FEATURES)
    keys = jax.random.split(jax.random.key(seed), (DRAWS, 2))
    asked = jax.jit(jax.vmap(lambda rng: _ask(holdout, jnp.asarray(train), jnp.asarray(held), rng)))
    answers, states = asked(keys[:, 0])

    def vote(answered):
        agreed = (np.minimum(np.abs(train), np.abs(answered)) > root) & (np.sign(train) == np.sign(answered))
        best = np.argsort(-np.abs(train) * agreed)[: min(CHOSEN, agreed.sum())]
        signs = np.zeros(FEATURES)
        signs[best] = np.sign(train[best])
        return [float(np.mean(np.sign(x @ signs) == y)) for x, y in parts]

    _, plain, fresh = vote(held)
    votes = np.array([vote(one) for one in np.asarray(answers)])
    reported, _ = jax.vmap(holdout.query)(states, votes[:, 0], votes[:, 1], keys[:, 1])
    return 100 * plain, 100 * fresh, 100 * float(reported.mean()), 100 * float(votes[:, 2].mean())


CHECK = Check(
    "ctrain_jax.metrics.thresholdout",
    "Dwork, Feldman, Hardt, Pitassi, Reingold and Roth, Preserving Statistical Validity in Adaptive Data Analysis, "
    "STOC 2015, arXiv 1411.2664; Generalization in Adaptive Data Analysis and Holdout Reuse, NeurIPS 2015, arXiv "
    "1506.02629",
    claims,
    rows=(149,),
    seeds=tuple(range(10)),
)

"""Power laws found again, and the end of real learning curves predicted from their first third."""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression

from ctrain_jax import analysis, streams
from experiments._evidence._common import Check, Claim, estimate, gate, means

LAW = analysis.PowerLaw(0.95, 0.9, 0.45)
SIZES = np.geomspace(10, 1e6, 30)
SEEN = 12  # 40 percent of the points


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `analysis.learning_curve_fit`."""
    exact = analysis.learning_curve_fit(SIZES[:SEEN], analysis.predict_power(LAW, SIZES[:SEEN])).law
    limit, end = np.array([_noisy(seed) for seed in range(10)]).T
    within = [int(np.sum(x <= 1)) for x in (limit, end)]
    fitted, last = np.array([_digits(seed) for seed in seeds]).T
    return [
        gate(
            "y = 0.95 - 0.9 x^-0.45 at 30 sizes from 10 to a million, first 12 seen: the three parameters (largest "
            "error)",
            np.max(np.abs(np.subtract(exact, LAW))),
            most=1e-3,
        ),
        estimate(
            "the same with noise of 0.3 points, 10 seeds: error of the asymptote in points (within one point: "
            f"{within[0]} of 10)",
            limit,
            most=1,
        ),
        estimate(
            f"the same: error of the value at the largest size in points (within one point: {within[1]} of 10)",
            end,
            most=1,
        ),
        estimate(
            "logistic regression on digits, 12 sizes from 40 to 300 of 900: error of the predicted end in points",
            fitted,
            most=1,
        ),
        estimate(
            "the same: points by which the last value that was seen is further off "
            f"({means(fitted=fitted, last=last)})",
            last - fitted,
            least=0,
        ),
    ]


def _noisy(seed: int) -> tuple[float, float]:
    """Errors in points of the asymptote and of the value at the largest size."""
    noise = 0.003 * np.random.default_rng(seed).normal(size=SEEN)
    law = analysis.fit_power(SIZES[:SEEN], analysis.predict_power(LAW, SIZES[:SEEN]) + noise)
    end = float(analysis.predict_power(law, SIZES[-1]) - analysis.predict_power(LAW, SIZES[-1]))
    return 100 * abs(law.limit - LAW.limit), 100 * abs(end)


def _digits(seed: int) -> tuple[float, float]:
    """Errors in points at the last size: of the prediction from the others, and of the last score among them.

    Each seed splits all images anew.
    """
    source = streams.digits()
    inputs, labels = (np.concatenate([source.train[k], source.test[k]]) for k in ("inputs", "labels"))
    order = np.random.default_rng(seed).permutation(len(labels))
    inputs, labels = inputs[order].reshape(len(labels), -1) / 255.0, labels[order]
    sizes = np.append(np.geomspace(40, 300, 12).astype(int), 900)
    model = LogisticRegression(max_iter=1000)
    scores = [model.fit(inputs[:n], labels[:n]).score(inputs[900:], labels[900:]) for n in sizes.tolist()]
    fit = analysis.learning_curve_fit(sizes[:-1], scores[:-1])
    predicted = float(analysis.predict_power(fit.law, sizes[-1]))
    return 100 * abs(predicted - scores[-1]), 100 * abs(scores[-2] - scores[-1])


CHECK = Check(
    "ctrain_jax.analysis.learning_curve_fit",
    "Vilares Ferro, Darriba Bilbao and Ribadas Pena, Modeling of learning curves with applications to POS tagging, "
    "Computer Speech and Language 41, 2017, arXiv 2402.02515",
    claims,
    rows=(5,),
)

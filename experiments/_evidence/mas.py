"""MAS: the importance of a linear model in closed form; task-incremental accuracy above plain training."""

from collections.abc import Sequence

import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import Check, Claim, gate
from experiments._evidence._penalties import above_naive, plain_without


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.mas`."""
    return [
        plain_without(continual.mas(0.0)),
        gate(
            "the importance of a linear model after 3 experiences is the sum of the means of 2 |x_i| |f_j| (largest "
            "difference, relative to the largest importance)",
            _closed_form(),
            most=1e-4,
        ),
        *above_naive(continual.mas(1.0), "lam=1", seeds),
    ]


def _closed_form() -> float:
    stream = streams.class_incremental(streams.digits(), 3)
    learner = core.make_learner(
        core.from_linen(models.MLP(10, hidden=())), continual.mas(1.0), optax.adam(1e-2), stream
    )
    data, state, expected = core.to_device(stream), core.start(learner), 0.0
    for t in range(3):
        state = core.run_experience(learner, state, data, t)
        rows = stream.experiences["train"].rows[t][: stream.experiences["train"].size[t]]
        x = stream.source.train["inputs"][rows].reshape(len(rows), -1).astype(np.float64) / 255
        head = {k: np.asarray(v, np.float64) for k, v in state.params["head"].items()}
        logits = x @ head["kernel"] + head["bias"]
        expected = expected + 2 * np.abs(x).T @ np.abs(logits) / len(x)
    own = np.asarray(state.method_state["mas"].omega["head"]["kernel"], np.float64)
    return float(np.max(np.abs(own - expected)) / np.max(expected))


CHECK = Check(
    "ctrain_jax.continual.mas",
    "Aljundi et al., Memory Aware Synapses: Learning what (not) to forget, ECCV 2018, arXiv 1711.09601",
    claims,
)

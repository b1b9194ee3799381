"""SCR: answers are those of the class means of the memory; class-incremental accuracy against naive and ER."""

from collections.abc import Sequence

import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import SIZE, Check, Claim, against_er, gate


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.scr`."""
    return [
        gate("answers that are not the nearest class mean of the rows in memory (number of 300)", _others(), most=0),
        *against_er("scr", continual.scr(SIZE), seeds),
    ]


def _others() -> int:
    """Against the means computed in float64 from the features of the rows that the memory names."""
    source = streams.digits()
    model = core.from_linen(models.MLP(10, hidden=(32,)))
    stream = streams.class_incremental(source, 5)
    learner = core.make_learner(model, continual.scr(100), optax.adam(1e-3), stream, batch_size=16)
    state = core.run_stream(learner).state
    rows = np.asarray(state.method_state["scr"].buffer.records["row"])

    def units(inputs):
        variables = core.Variables(state.params, state.model_state)
        features = np.asarray(model.apply(variables, inputs.astype(np.float32) / 255)[0].features, np.float64)
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    asked, own, labels = source.test["inputs"][:300], units(source.train["inputs"][rows]), source.train["labels"][rows]
    means = np.stack([own[labels == c].mean(0) for c in range(10)])
    nearest = (units(asked) @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T).argmax(1)
    batch = {"inputs": asked.astype(np.float32) / 255, "weights": np.ones(300, np.float32)}
    answer = np.asarray(learner.predict(state, core.to_device(stream), 4, batch).logits).argmax(1)
    return int(np.sum(answer != nearest))


CHECK = Check(
    "ctrain_jax.continual.scr",
    "Mai et al., Supervised Contrastive Replay, CVPR Workshops 2021, arXiv 2103.13885",
    claims,
)

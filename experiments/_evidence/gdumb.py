"""GDumb: an even memory, nothing of before in the parameters; class-incremental accuracy against naive and ER."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import SIZE, Check, Claim, against_er, distance, gate


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.gdumb`."""
    spread, trace = _digits()
    return [
        gate("rows of a class in the memory, most less least, after each experience (largest)", spread, most=1),
        gate("training starts anew, whatever the parameters were (largest difference of one)", trace, most=0),
        *against_er("gdumb", continual.gdumb(SIZE, epochs=32), seeds),
    ]


def _digits() -> tuple[float, float]:
    stream = streams.class_incremental(streams.digits(), 5)
    model = core.from_linen(models.MLP(10, hidden=(32,)))
    method = continual.gdumb(100, epochs=3)
    learner = core.make_learner(model, method, optax.adam(1e-3), stream, steps=1)
    data, state, spread = core.to_device(stream), core.start(learner), []
    for t in range(5):
        state = core.run_experience(learner, state, data, t)
        held = np.asarray(state.method_state["gdumb"].buffer.seen)[: 2 * (t + 1)]
        spread.append(held.max() - held.min())
    end, changed = jax.jit(learner.end), jax.tree.map(lambda p: p + 1.0, state.params)
    return max(spread), distance(end(state, data, 4).params, end(state._replace(params=changed), data, 4).params)


CHECK = Check(
    "ctrain_jax.continual.gdumb",
    "Prabhu, Torr and Dokania, GDumb: A Simple Approach that Questions Our Progress in Continual Learning, ECCV 2020 "
    "(not on arXiv)",
    claims,
)

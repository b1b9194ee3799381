"""Task-free MAS: one plateau for each shift; permuted MNIST in one pass without boundaries."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from ctrain_jax.continual.regularization._task_free_mas import UNSEEN, Watch, watched
from experiments._evidence._common import Check, Claim, estimate, final, forgotten, gate, handwritten, means, runs


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.task_free_mas`."""
    stream = streams.permuted(handwritten(data_dir, 3_000), 10)

    def learner(method):
        model = core.from_linen(models.MLP(10, hidden=(100, 100)))
        return core.make_learner(model, method, optax.sgd(0.05), stream, batch_size=10, epochs=1)

    def task_free(lam):
        return continual.task_free_mas(lam, size=2, mean=0.6)

    results = [runs(learner(m), seeds) for m in (core.identity(), task_free(0.0), task_free(0.3))]
    naive, memory, own = map(final, results)
    lost = dict(zip(("naive", "memory", "task_free_mas"), map(forgotten, results), strict=True))
    return [
        gate("losses of 2 and 0.1 in turn, 20 steps each, 5 times: plateaus more or less than 5", _plateaus(), most=0),
        estimate(
            "permuted MNIST (3,000 rows), 10 experiences in one pass, MLP, batches of 10 and 2, lam=0.3: points of "
            f"final accuracy above naive ({means(naive=naive, task_free_mas=own)})",
            own - naive,
            least=0,
        ),
        estimate(
            f"the same: above its memory alone, lam=0 ({means(memory=memory, task_free_mas=own)})",
            own - memory,
            least=0,
        ),
        estimate(
            f"the same: points of forgetting less than naive ({means(**lost)})",
            lost["naive"] - lost["task_free_mas"],
            least=0,
        ),
    ]


def _plateaus() -> int:
    losses = jnp.tile(jnp.repeat(jnp.asarray([2.0, 0.1]), 20), 5)
    start = Watch(jnp.full(5, UNSEEN), jnp.float32(0), jnp.bool_(True))
    found = np.sum(jax.lax.scan(lambda watch, loss: watched(watch, loss, 0.2, 0.1), start, losses)[1])
    return abs(int(found) - 5)


CHECK = Check(
    "ctrain_jax.continual.task_free_mas",
    "Aljundi et al., Task-Free Continual Learning, CVPR 2019, arXiv 1812.03596",
    claims,
    rows=(291,),
    data=True,
)

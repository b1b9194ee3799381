"""BiC: rows held out are not trained on, the correction is the best; class-incremental accuracy, and its gain."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax import continual, core
from experiments._evidence._common import Check, Claim, distance, estimate, final, gate, means, runs
from experiments._evidence.icarl import SIZE, compared, digits, first_experience, seen_fashion_mnist


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.bic`."""
    learner = seen_fashion_mnist(continual.bic(SIZE))
    bic = runs(learner, seeds)
    corrected, plain = final(bic), _uncorrected(learner, bic)
    return [
        gate(
            "the first experience is plain training without the rows held out (largest difference of a parameter)",
            _first(),
            most=1e-5,
        ),
        gate(
            "cross-entropy on rows held out, above the least on a grid of the two parameters at steps of 0.01",
            _fit(),
            most=1e-4,
        ),
        *compared("bic", bic, seeds),
        estimate(
            f"the same: above its own answers without the correction ({means(plain=plain, corrected=corrected)})",
            corrected - plain,
            least=0,
        ),
    ]


def _first() -> float:
    method = continual.bic(5, held_out=2)
    learner = digits(method)
    state = jax.jit(learner.begin)(core.start(learner), core.to_device(learner.stream), 0)
    held = state.method_state["bic"].held_out
    rows = held.row[held.held]

    def augment(s, batch, ctx):
        return batch | {"weights": batch["weights"] * ~jnp.isin(batch["row"], rows)}

    return distance(first_experience(method), first_experience(core.Method("fewer", augment=augment)))


def _fit() -> float:
    """After the second experience, against all pairs near the one that was found."""
    learner = digits(continual.bic(10, held_out=4))
    data, state = core.to_device(learner.stream), core.start(learner)
    for t in range(2):
        state = core.run_experience(learner, state, data, t)
    mine = jax.tree.map(np.asarray, state.method_state["bic"])
    source, rows = learner.stream.source.train, mine.held_out.row[:4].ravel()
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), state.params)
    x = source["inputs"][rows].reshape(len(rows), -1) / 255
    hidden = np.maximum(x @ params["dense_0"]["kernel"] + params["dense_0"]["bias"], 0)
    logits, labels = (hidden @ params["head"]["kernel"] + params["head"]["bias"])[:, :4], source["labels"][rows]

    def loss(scale, shift):
        z = logits * np.array([1, 1, scale, scale]) + np.array([0, 0, shift, shift])
        return np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]) + 0.05 * shift**2

    found = float(mine.correction.scale[2]), float(mine.correction.shift[2])
    steps = np.arange(-100, 101) / 100
    least = min(loss(found[0] + a, found[1] + b) for a in steps for b in steps)
    return loss(*found) - least


def _uncorrected(learner: core.Learner, result: core.Result) -> np.ndarray:
    """Final accuracy in percent `[S]` of the network's own logits."""

    def one(state, data):
        mine = state.method_state["bic"]
        plain = mine.correction._replace(
            scale=jnp.ones_like(mine.correction.scale), shift=jnp.zeros_like(mine.correction.shift)
        )
        state = state._replace(method_state={"bic": mine._replace(correction=plain)})
        return learner.evaluate(state, data, jnp.int32(4))["accuracy"].mean()

    return 100 * np.asarray(jax.jit(core.mapped(one, (0, None)))(result.state, core.to_device(learner.stream)))


CHECK = Check(
    "ctrain_jax.continual.bic",
    "Wu et al., Large Scale Incremental Learning, CVPR 2019, arXiv 1905.13260",
    claims,
)

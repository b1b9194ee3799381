"""EWC: the one quadratic form is the sum of all penalties; task-incremental accuracy above plain training."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import Check, Claim, distance, estimate, final, forgotten, gate, means, runs


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.ewc`."""
    stream = streams.task_incremental(streams.fashion_mnist(), 5)

    def measured(method):
        model = core.from_linen(models.MLP(10))
        return runs(core.make_learner(model, method, optax.adam(1e-3), stream, batch_size=32, epochs=3), seeds)

    naive, ewc = measured(core.identity()), measured(continual.ewc(1e4))
    accuracy, lost = (final(naive), final(ewc)), (forgotten(naive), forgotten(ewc))
    return [
        gate("lam=0 is plain training (largest difference of a parameter)", _without_penalty(), most=1e-6),
        gate(
            "the quadratic form is the sum of the penalties of 3 experiences, with the Fisher information of a "
            "softmax-linear model in closed form (relative difference of values)",
            _quadratic_form(),
            most=1e-4,
        ),
        estimate(
            "task-incremental Split-Fashion-MNIST (10,000 rows), MLP, lam=1e4: points of final accuracy above naive "
            f"({means(naive=accuracy[0], ewc=accuracy[1])})",
            accuracy[1] - accuracy[0],
            least=0,
        ),
        estimate(
            f"the same: points of forgetting less than naive ({means(naive=lost[0], ewc=lost[1])})",
            lost[0] - lost[1],
            least=0,
        ),
    ]


def _linear(method: core.Method) -> core.Learner:
    stream = streams.class_incremental(streams.digits(), 3)
    return core.make_learner(core.from_linen(models.MLP(10, hidden=())), method, optax.adam(1e-2), stream)


def _without_penalty() -> float:
    states = [core.run_stream(_linear(method)).state.params for method in (core.identity(), continual.ewc(0.0))]
    return distance(*states)


def _quadratic_form() -> float:
    learner = _linear(continual.ewc(2.0))
    stream, data, state = learner.stream, core.to_device(learner.stream), core.start(learner)
    penalties = []
    for t in range(3):
        state = core.run_experience(learner, state, data, t)
        rows = stream.experiences["train"].rows[t][: stream.experiences["train"].size[t]]
        x = stream.source.train["inputs"][rows].reshape(len(rows), -1).astype(np.float64) / 255
        head = {k: np.asarray(v, np.float64) for k, v in state.params["head"].items()}
        logits = x @ head["kernel"] + head["bias"]
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        # Of log p(y) by logit j the expected square is p_j (1 - p_j).
        fisher = {"kernel": (x**2).T @ (p * (1 - p)) / len(x), "bias": (p * (1 - p)).mean(0)}
        penalties.append((fisher, head))
    form = state.method_state["ewc"]
    rng = np.random.default_rng(0)
    values = []
    for _ in range(4):
        at = jax.tree.map(lambda p: np.asarray(p, np.float64) + rng.normal(size=p.shape), state.params)["head"]
        whole = sum(np.sum(f[k] * (at[k] - a[k]) ** 2) for f, a in penalties for k in at)
        own = sum(np.sum(np.float64(form.fisher["head"][k]) * (at[k] - form.anchor["head"][k]) ** 2) for k in at)
        values.append((whole, own))
    differences = np.diff(np.asarray(values), axis=0)
    return float(np.max(np.abs(differences[:, 0] - differences[:, 1])) / np.max(np.abs(differences)))


CHECK = Check(
    "ctrain_jax.continual.ewc",
    "Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS 2017, arXiv 1612.00796",
    claims,
)

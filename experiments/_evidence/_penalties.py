"""What the checks of penalties on the parameters share."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import core, models, streams
from experiments._evidence._common import Claim, distance, estimate, final, forgotten, gate, means, runs


def plain_without(method: core.Method) -> Claim:
    """That the method, of strength 0, changes nothing."""
    stream, model = streams.class_incremental(streams.digits(), 3), core.from_linen(models.MLP(10, hidden=()))
    learners = (core.make_learner(model, m, optax.adam(1e-2), stream) for m in (core.identity(), method))
    ends = [core.run_stream(learner).state.params for learner in learners]
    return gate("lam=0 is plain training (largest difference of a parameter)", distance(*ends), most=1e-6)


def first_is_plain(method: core.Method) -> Claim:
    """That a strong method changes nothing before there is something to keep."""
    stream, model = streams.class_incremental(streams.digits(), 3), core.from_linen(models.MLP(10, hidden=(16,)))
    learners = (core.make_learner(model, m, optax.adam(1e-2), stream) for m in (core.identity(), method))
    ends = [core.run_experience(each, core.start(each), core.to_device(stream), 0).params for each in learners]
    text = "the first experience is plain training, whatever the strength (largest difference of a parameter)"
    return gate(text, distance(*ends), most=1e-6)


def above_naive(method: core.Method, strength: str, seeds: Sequence[int]) -> list[Claim]:
    """That where the task is known the method ends above plain training, and forgets less."""
    stream = streams.task_incremental(streams.fashion_mnist(), 5)
    learners = [
        core.make_learner(core.from_linen(models.MLP(10)), m, optax.adam(1e-3), stream, batch_size=32, epochs=3)
        for m in (core.identity(), method)
    ]
    naive, own = (runs(learner, seeds) for learner in learners)
    accuracy, lost = (final(naive), final(own)), (forgotten(naive), forgotten(own))
    names = ("naive", method.name)
    return [
        estimate(
            f"task-incremental Split-Fashion-MNIST (10,000 rows), MLP, {strength}: points of final accuracy above "
            f"naive ({means(**dict(zip(names, accuracy, strict=True)))})",
            accuracy[1] - accuracy[0],
            least=0,
        ),
        estimate(
            f"the same: points of forgetting less than naive ({means(**dict(zip(names, lost, strict=True)))})",
            lost[0] - lost[1],
            least=0,
        ),
    ]


def small_steps(method: core.Method) -> tuple[core.TrainState, core.TrainState, float]:
    """Sixty small steps of gradient descent of a softmax-linear model on all rows of one experience of digits.

    Returns:
      The states before and after, and the decrease of the loss.
    """
    stream = streams.joint(streams.class_incremental(streams.digits(), 2))
    split = stream.experiences["train"]
    rows = split.rows[0][: split.size[0]]
    learner = core.make_learner(
        core.from_linen(models.MLP(10, hidden=())), method, optax.sgd(0.05), stream, batch_size=len(rows), steps=60
    )
    x = np.asarray(stream.source.train["inputs"][rows], np.float64).reshape(len(rows), -1) / 255
    y = stream.source.train["labels"][rows]

    def loss(params):
        head = {k: np.asarray(v, np.float64) for k, v in params["head"].items()}
        logits = x @ head["kernel"] + head["bias"]
        return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y])

    start = core.start(learner)
    before = jax.tree.map(jnp.array, start)
    end = core.run_experience(learner, start, core.to_device(stream), 0)
    return before, end, float(loss(before.params) - loss(end.params))

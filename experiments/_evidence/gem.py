"""GEM: no step goes up the loss of any memory; on permuted images less forgetting."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import Check, Claim, distance, estimate, final, forgotten, gate, means, runs
from experiments._evidence.agem import permuted_fashion_mnist

MODEL = core.from_linen(models.MLP(10, hidden=(32,)))


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.gem`."""
    methods = (core.identity(), continual.gem(128, margin=0.5))
    results = [runs(permuted_fashion_mnist(method, optax.sgd(0.1)), seeds) for method in methods]
    naive, gem = map(final, results)
    lost = dict(zip(("naive", "gem"), map(forgotten, results), strict=True))
    where = "permuted Fashion-MNIST (10,000 rows), 5 experiences, MLP, SGD, 128 rows of each experience"
    return [
        gate("the first experience is plain training (largest difference of a parameter)", _empty(), most=1e-6),
        gate(
            "margin 0: no step of the fourth experience goes up the loss of any of three memories (largest cosine of a "
            "step of SGD and a memory's gradient)",
            _climb(),
            most=1e-3,
        ),
        estimate(
            f"{where}: points of forgetting less than naive ({means(**lost)})", lost["naive"] - lost["gem"], least=2
        ),
        estimate(
            f"the same: points of final accuracy above naive ({means(naive=naive, gem=gem)})", gem - naive, least=2
        ),
    ]


def _digits(method: core.Method) -> core.Learner:
    return core.make_learner(MODEL, method, optax.sgd(0.1), streams.class_incremental(streams.digits(), 5))


def _empty() -> float:
    after = []
    for method in (core.identity(), continual.gem(20)):
        learner = _digits(method)
        data = core.to_device(learner.stream)
        after.append(core.run_experience(learner, core.start(learner), data, 0).params)
    return distance(*after)


def _climb() -> float:
    learner = _digits(continual.gem(20, margin=0.0))
    data, step, state = core.to_device(learner.stream), jax.jit(learner.step), core.start(learner)
    for t in range(3):
        state = core.run_experience(learner, state, data, t)
    source = learner.stream.source
    rows = np.asarray(state.method_state["gem"].records["row"])[:3]
    inputs, labels = jnp.asarray(source.train["inputs"][rows], jnp.float32) / 255, source.train["labels"][rows]

    @jax.jit
    def cosines(params, moved):
        def losses(params):
            logits = MODEL.apply(core.Variables(params, {}), inputs.reshape(60, *inputs.shape[2:]))[0].logits
            each = optax.softmax_cross_entropy_with_integer_labels(logits, labels.reshape(60))
            return each.reshape(3, 20).mean(1)

        references, change = jax.jacrev(losses)(params), optax.tree.sub(moved, params)
        flat = [jnp.concatenate([x.reshape(3, -1) for x in jax.tree.leaves(references)], axis=1)]
        flat.append(jnp.concatenate([x.ravel() for x in jax.tree.leaves(change)]))
        return flat[0] @ flat[1] / (jnp.linalg.norm(flat[0], axis=1) * jnp.linalg.norm(flat[1]))

    found = []
    for i in range(learner.spec.steps[3]):
        new, _ = step(state, data, 3, i)
        found.append(np.max(cosines(state.params, new.params)))
        state = new
    return float(np.max(found))


CHECK = Check(
    "ctrain_jax.continual.gem",
    "Lopez-Paz and Ranzato, Gradient Episodic Memory for Continual Learning, NeurIPS 2017, arXiv 1706.08840",
    claims,
)

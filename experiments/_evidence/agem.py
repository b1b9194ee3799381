"""A-GEM: an empty memory changes nothing, no step goes up the reference; on permuted images less forgetting."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import Check, Claim, distance, estimate, final, forgotten, gate, means, runs


def permuted_fashion_mnist(method: core.Method, optimizer: optax.GradientTransformation) -> core.Learner:
    """The learner on which projections are measured: one head and five orders of the pixels, each seen once."""
    stream = streams.permuted(streams.fashion_mnist(), 5)
    model = core.from_linen(models.MLP(10, hidden=(100, 100)))
    return core.make_learner(model, method, optimizer, stream, batch_size=32, epochs=1)


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.agem`."""
    methods = (core.identity(), continual.agem(1000, batch_size=128))
    results = [runs(permuted_fashion_mnist(method, optax.sgd(0.1)), seeds) for method in methods]
    naive, agem = map(final, results)
    lost = dict(zip(("naive", "agem"), map(forgotten, results), strict=True))
    where = "permuted Fashion-MNIST (10,000 rows), 5 experiences, MLP, SGD, memory 1000"
    return [
        gate("the first experience is plain training (largest difference of a parameter)", _empty(), most=1e-6),
        gate(
            "no step of the second experience goes up the loss of the memory (largest cosine of a step of SGD and the "
            "gradient of all of the memory)",
            _climb(),
            most=1e-4,
        ),
        estimate(
            f"{where}: points of forgetting less than naive ({means(**lost)})", lost["naive"] - lost["agem"], least=2
        ),
        estimate(
            f"the same: points of final accuracy above naive ({means(naive=naive, agem=agem)})", agem - naive, least=2
        ),
    ]


MODEL = core.from_linen(models.MLP(10, hidden=(32,)))


def _digits(method: core.Method) -> core.Learner:
    return core.make_learner(MODEL, method, optax.sgd(0.1), streams.class_incremental(streams.digits(), 5))


def _empty() -> float:
    after = []
    for method in (core.identity(), continual.agem(50)):
        learner = _digits(method)
        data = core.to_device(learner.stream)
        after.append(core.run_experience(learner, core.start(learner), data, 0).params)
    return distance(*after)


def _climb() -> float:
    """The largest cosine of a step and the gradient of the whole memory, which is drawn whole in each step."""
    learner = _digits(continual.agem(50, batch_size=50))
    data, step = core.to_device(learner.stream), jax.jit(learner.step)
    state = core.run_experience(learner, core.start(learner), data, 0)
    source = learner.stream.source
    rows = np.asarray(state.method_state["agem"].buffer.records["row"])
    inputs, labels = jnp.asarray(source.train["inputs"][rows], jnp.float32) / 255, source.train["labels"][rows]

    @jax.jit
    def cosine(params, moved):
        def loss(params):
            logits = MODEL.apply(core.Variables(params, {}), inputs)[0].logits
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        reference, change = jax.grad(loss)(params), optax.tree.sub(moved, params)
        return optax.tree.vdot(change, reference) / (optax.tree.norm(change) * optax.tree.norm(reference))

    cosines = []
    for i in range(learner.spec.steps[1]):
        new, _ = step(state, data, 1, i)
        cosines.append(cosine(state.params, new.params))
        state = new
    return float(np.max(cosines))


CHECK = Check(
    "ctrain_jax.continual.agem",
    "Chaudhry et al., Efficient Lifelong Learning with A-GEM, ICLR 2019, arXiv 1812.00420",
    claims,
)

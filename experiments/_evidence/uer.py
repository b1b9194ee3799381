"""UER: new rows leave the lengths alone; in one pass, how even and how accurate the answers are, against ER."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import Check, Claim, estimate, final, forgotten, gate, means, runs
from experiments._evidence.mir import one_pass

SIZE = 200  # rows of memory
WHERE = f"class-incremental Split-Fashion-MNIST (10,000 rows), one pass in batches of 10 and 10, MLP, memory {SIZE}"


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.uer`."""
    recomposed, new, replayed = _lengths()
    learners = [one_pass(method) for method in (core.identity(), continual.er(SIZE), continual.uer(SIZE))]
    results = [runs(learner, seeds) for learner in learners]
    naive, er, uer = map(final, results)
    lost = dict(zip(("naive", "er", "uer"), map(forgotten, results), strict=True))
    shares = {name: _last(learners[i], results[i]) for i, name in ((1, "er"), (2, "uer"))}
    unfair = {name: np.abs(share - 20.0) for name, share in shares.items()}
    return [
        gate("logits over the lengths of both vectors less cosines (largest difference)", recomposed, most=1e-6),
        gate("gradient of new rows along weights and features (largest product)", new, most=1e-5),
        gate("and of replayed rows (largest product)", replayed, least=1e-3),
        estimate(
            f"{WHERE}: points of final accuracy above naive ({means(naive=naive, uer=uer)})", uer - naive, least=20
        ),
        estimate(f"the same: points of final accuracy above er ({means(er=er, uer=uer)})", uer - er, least=1),
        estimate(
            f"the same: points by which the share of answers that name a class of the last experience is nearer to 20 "
            f"percent than er's ({means(**shares)})",
            unfair["er"] - unfair["uer"],
            least=5,
        ),
        estimate(
            f"the same: points of forgetting less than naive ({means(**lost)})", lost["naive"] - lost["uer"], least=20
        ),
    ]


def _lengths() -> tuple[float, float, float]:
    """Of a softmax-linear model of digits, whose features are its inputs."""
    method, source = continual.uer(SIZE), streams.digits()
    model = method.model(core.from_linen(models.MLP(10, hidden=())))
    problem = method.problem(core.classification())
    inputs = jnp.asarray(source.train["inputs"][:100].reshape(100, -1) / np.float32(255))
    labels = jnp.asarray(source.train["labels"][:100])
    made = model.init(jax.random.key(0), inputs)
    params = made.params

    def loss(params, inputs, scale):
        outputs, _ = model.apply(made._replace(params=params), inputs)
        batch = {"labels": labels, "weights": jnp.ones(100), "scale": jnp.full(100, scale)}
        return problem.loss(outputs, batch).mean()

    def along(scale):
        slopes, pushes = jax.grad(loss, (0, 1))(params, inputs, scale)
        weights = jnp.sum(slopes["head"]["kernel"] * params["head"]["kernel"], 0)
        return float(jnp.maximum(jnp.abs(weights).max(), jnp.abs(jnp.sum(pushes * inputs, 1)).max()))

    outputs, _ = model.apply(made._replace(params=params), inputs)
    kernel = np.asarray(params["head"]["kernel"], np.float64)
    lengths = np.linalg.norm(inputs, axis=1)[:, None] * np.linalg.norm(kernel, axis=0)
    return np.max(np.abs(outputs.logits / lengths - outputs.aux)), along(10.0), along(0.0)


def _last(learner: core.Learner, result: core.Result) -> np.ndarray:
    """The share of test rows, in percent `[S]`, that are taken for one of the two classes of the last experience."""
    stream, data = learner.stream, core.to_device(learner.stream)
    test = stream.source.test["inputs"]
    batch = {"inputs": jnp.asarray(test / np.float32(255)), "weights": jnp.ones(len(test))}

    def one(state):
        answers = learner.predict(state, data, 4, batch).logits.argmax(-1)
        return 100 * jnp.mean(data.experiences["train"].classes[4][answers])

    return np.asarray(jax.jit(lambda states: jax.lax.map(one, states))(result.state))


CHECK = Check(
    "ctrain_jax.continual.uer",
    "Lin et al., UER: A Heuristic Bias Addressing Approach for Online Continual Learning, 2023, arXiv 2309.04081",
    claims,
    rows=(292,),
)

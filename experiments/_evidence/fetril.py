"""FeTrIL: translation is exact, the network stays; MNIST, five classes and then one at a time."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams, testing
from ctrain_jax.continual.representation import _fetril
from ctrain_jax.streams._assemble import stack, unpadded
from experiments._evidence._common import Check, Claim, distance, estimate, final, gate, handwritten, means, runs

ROWS, TESTS = 4_000, 1_000


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.fetril`."""
    moved, spread = _translated()
    pseudo, true = _gaussians(seeds)
    source = handwritten(data_dir, ROWS)
    source = source._replace(test={name: leaf[:TESTS] for name, leaf in source.test.items()})
    stream = _five_then_one(source)
    model = core.from_linen(models.CNN(10, widths=(4, 8, 16)))

    def measured(method):
        learner = core.make_learner(model, method, optax.adam(1e-3), stream, batch_size=32, epochs=3)
        return runs(learner, seeds)

    ours, naive = measured(continual.fetril()), final(measured(core.identity()))
    fetril, nmc = final(ours), _nearest_mean(model, ours.state, source)
    where = f"{source.name} ({len(source.train['labels'])} rows), CNN, 5 classes and then 5 times 1"
    return [
        gate("translated features have the mean of the old class (largest difference)", moved, most=1e-6),
        gate("and the covariance of the new one (largest difference)", spread, most=1e-6),
        gate("AdamW and BatchNorm move nothing after the first experience (largest difference)", _frozen(), most=0),
        estimate(
            "Gaussians of one covariance: points of accuracy above the head fit to true features "
            f"({means(pseudo=pseudo, true=true)})",
            pseudo - true,
            least=-1,
        ),
        estimate(
            f"{where}: points of final accuracy above naive ({means(naive=naive, fetril=fetril)})",
            fetril - naive,
            least=30,
        ),
        estimate(
            f"the same: above the nearest mean of the same features ({means(nmc=nmc, fetril=fetril)})",
            fetril - nmc,
            least=-0.5,
        ),
    ]


def _translated() -> tuple[float, float]:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 6)).astype(np.float32)
    wanted = rng.normal(size=6).astype(np.float32)
    made = np.asarray(_fetril.translate(jnp.asarray(features), features.mean(0), wanted), np.float64)
    covariance = np.cov(made.T) - np.cov(features.astype(np.float64).T)
    return float(np.abs(made.mean(0) - wanted).max()), float(np.abs(covariance).max())


def _frozen() -> float:
    learner = core.make_learner(
        testing.standard_model(), continual.fetril(steps=5), optax.adamw(1e-2), testing.standard_stream(), batch_size=8
    )
    data = core.to_device(learner.stream)
    first = core.run_experience(learner, core.start(learner), data, 0)
    before = jax.tree.map(np.asarray, (first.params, first.model_state))
    second = core.run_experience(learner, first, data, 1)
    return distance(before, (second.params, second.model_state))


def _gaussians(seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies in percent `[S]` of the head in order, two classes each, and of the head of all classes at once."""

    def apply(variables, inputs, *, train=False, rng=None, task=None):
        return core.Outputs(jnp.zeros((inputs.shape[0], 6)), inputs), variables.model_state

    model = core.Model(lambda rng, inputs: core.Variables({}), apply)
    sources = [_blobs(seed) for seed in seeds]
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    found = []
    for experiences in (3, 1):
        each = [streams.class_incremental(source, experiences) for source in sources]
        learner = core.make_learner(model, continual.fetril(), optax.sgd(0.0), each[0], steps=1)
        data = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(core.to_device, each))
        run = core.mapped(lambda data, key, learner=learner: core.run_fused(learner, data, key), (0, 0))
        found.append(final(jax.jit(run)(data, keys)))
    return found[0], found[1]


def _blobs(seed: int) -> core.Source:
    """Six Gaussians in 16 dimensions: one covariance, means that overlap."""
    rng = np.random.default_rng(seed)
    centres, mixing = 0.3 * rng.normal(size=(6, 16)), rng.normal(size=(16, 16)) / 4
    parts = []
    for rows in (6000, 6000):
        labels = np.arange(rows) % 6
        parts += [(centres[labels] + rng.normal(size=(rows, 16)) @ mixing.T).astype(np.float32), labels]
    return streams.arrays(*parts, name="gaussians")


def _five_then_one(source: core.Source) -> core.Stream:
    """Classes 0 to 4 together, then each of the others; every class is tested apart."""
    stream = streams.class_incremental(source, 10)
    rows, origins = unpadded(stream.experiences["train"])
    parts = [slice(5), *(slice(c, c + 1) for c in range(5, 10))]
    train = stack(
        "train",
        [np.concatenate(rows[part]) for part in parts],
        [np.concatenate(origins[part]) for part in parts],
        np.stack([stream.experiences["train"].classes[part].any(0) for part in parts]),
    )
    return stream._replace(experiences={**stream.experiences, "train": train})


def _nearest_mean(model: core.Model, state: core.TrainState, source: core.Source) -> np.ndarray:
    """Mean accuracy of the classes in percent `[S]`, by the means that the method keeps."""
    labels = jnp.asarray(source.test["labels"])

    def one(variables, centres):
        images = jnp.asarray(source.test["inputs"]) / 255.0
        features = jax.lax.map(
            lambda x: model.apply(variables, x)[0].features, images.reshape(10, -1, *images.shape[1:])
        )
        features = features.reshape(len(labels), -1)
        right = (features @ centres.T - jnp.square(centres).sum(-1) / 2).argmax(-1) == labels
        return jnp.stack([jnp.mean(right, where=labels == c) for c in range(10)]).mean()

    variables = core.Variables(state.params, state.model_state)
    return 100 * np.asarray(jax.jit(core.mapped(one, (0, 0)))(variables, state.method_state["fetril"].means))


CHECK = Check(
    "ctrain_jax.continual.fetril",
    "Petit et al., FeTrIL: Feature Translation for Exemplar-Free Class-Incremental Learning, WACV 2023, "
    "arXiv 2211.13131",
    claims,
    rows=(38,),
    data=True,
)

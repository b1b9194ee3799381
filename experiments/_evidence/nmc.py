"""NMC: the means are those of all rows, whatever the stream; Split-MNIST on features learned from clothes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import Check, Claim, estimate, final, gate, handwritten, means, runs, trained

ROWS = 10_000


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.nmc`."""
    error, spread, one_by_one = _exact()
    base = core.from_linen(models.CNN(10, widths=(16, 32)))
    clothes = streams.class_incremental(streams.fashion_mnist(), 1)
    pretrained = runs(
        core.make_learner(base, core.identity(), optax.adam(1e-3), clothes, batch_size=64, epochs=3), seeds
    )
    source = handwritten(data_dir, ROWS)
    stream = streams.class_incremental(source, 5)

    def measured(method, **options):
        learner = core.make_learner(base, method, optax.adam(1e-3), stream, **options)
        return final(runs(learner, seeds, trained(pretrained)))

    nmc = measured(continual.nmc(), batch_size=256)
    tuned = measured(core.identity(), batch_size=64)
    probe = _linear_probe(base, trained(pretrained), source)
    pixels = _pixel_means(source)
    where = f"{source.name} ({len(source.train['labels'])} rows), 5 experiences, features of a CNN from Fashion-MNIST"
    return [
        gate(
            "means of 10 x 1, 5 x 2 and 1 x 10 classes are the means of all rows (largest absolute difference)",
            error,
            most=1e-5,
        ),
        gate("and their accuracies differ by (points)", spread, most=0),
        gate("batches of 1 give the means of batches of 64 (largest absolute difference)", one_by_one, most=1e-5),
        estimate(
            f"{where}: points of final accuracy above fine-tuning the whole net ({means(nmc=nmc, tuned=tuned)})",
            nmc - tuned,
            least=20,
        ),
        estimate(
            f"the same: above the nearest mean of pixels ({means(nmc=nmc, pixels=pixels)})", nmc - pixels, least=0
        ),
        estimate(
            f"the same: above a linear probe by ridge regression on all rows at once ({means(nmc=nmc, probe=probe)})",
            nmc - probe,
            least=-10,
        ),
    ]


def _exact() -> tuple[float, float, float]:
    """Errors of the means, spread of the accuracies in points, and what the batch size changes."""
    model = core.from_linen(models.MLP(10, hidden=(32,)))
    source = streams.digits()
    found, accuracies = {}, []
    for experiences, batch_size in ((10, 64), (5, 64), (1, 64), (5, 1)):
        stream = streams.class_incremental(source, experiences, seed=experiences)
        learner = core.make_learner(model, continual.nmc(), optax.sgd(0.0), stream, batch_size=batch_size)
        result = core.run_stream(learner)
        state = result.state.method_state["nmc"]
        found[experiences, batch_size] = np.asarray(state.sums / state.counts[:, None], np.float64)
        weights = np.asarray(stream.experiences["test"].size, np.float64)
        correct = np.rint(np.asarray(result.accuracy[-1], np.float64) * weights).sum()
        accuracies.append(100 * correct / weights.sum())
    layer = {k: np.asarray(v, np.float64) for k, v in result.state.params["dense_0"].items()}
    x = source.train["inputs"].reshape(len(source.train["inputs"]), -1).astype(np.float64) / 255
    features = np.maximum(x @ layer["kernel"] + layer["bias"], 0)
    expected = np.stack([features[source.train["labels"] == c].mean(0) for c in range(10)])
    error = max(float(np.max(np.abs(means - expected))) for means in found.values())
    return error, max(accuracies) - min(accuracies), float(np.max(np.abs(found[5, 64] - found[5, 1])))


def _linear_probe(model: core.Model, variables: core.Variables, source: core.Source) -> np.ndarray:
    """Accuracy in percent `[S]` of ridge regression on the features, ridge 1."""

    def one(variables):
        def features(split):
            images = jnp.asarray(split["inputs"])
            parts = jax.lax.map(
                lambda x: model.apply(variables, x[None] / 255.0)[0].features[0], images, batch_size=500
            )
            return jnp.concatenate([parts, jnp.ones((len(parts), 1))], axis=1)

        x, targets = features(source.train), jax.nn.one_hot(source.train["labels"], 10)
        head = jax.scipy.linalg.solve(x.T @ x + jnp.eye(x.shape[1]), x.T @ targets, assume_a="pos")
        return jnp.mean((features(source.test) @ head).argmax(-1) == source.test["labels"])

    return 100 * np.asarray(jax.jit(core.mapped(one))(variables))


def _pixel_means(source: core.Source) -> float:
    train, test = ({k: np.asarray(v) for k, v in split.items()} for split in (source.train, source.test))
    x, y = (split["inputs"].reshape(len(split["inputs"]), -1) / np.float32(255) for split in (train, test))
    centres = np.stack([x[train["labels"] == c].mean(0) for c in range(10)])
    distances = np.square(centres).sum(1) - 2 * y @ centres.T
    return float(100 * np.mean(distances.argmin(1) == test["labels"]))


CHECK = Check(
    "ctrain_jax.continual.nmc",
    "Janson et al., A Simple Baseline that Questions the Use of Pretrained-Models in Continual Learning, 2022, "
    "arXiv 2210.04428",
    claims,
    rows=(39,),
    data=True,
)

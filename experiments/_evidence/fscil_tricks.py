"""Tricks for few-shot learning: corners, assignment, subnetwork; MNIST, six classes and then four with 5 shots."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, metrics, models, ops, streams, testing
from ctrain_jax.continual import representation
from ctrain_jax.continual.representation._fscil_tricks import assigned
from experiments._evidence._common import Check, Claim, distance, estimate, gate, handwritten, means, runs

ROWS, TESTS = 5_000, 2_000


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.fscil_tricks`."""
    source = handwritten(data_dir, ROWS)
    source = source._replace(test={name: leaf[:TESTS] for name, leaf in source.test.items()})
    stream = streams.few_shot_class_incremental(source, 5, base_classes=6, shots=5)
    sizes = np.asarray(stream.experiences["test"].size)
    model = core.from_linen(models.MLP(10, hidden=(256, 128)))

    def measured(method):
        """Accuracy on all test rows when the stream is over, and the harmonic one, in percent."""
        learner = core.make_learner(model, method, optax.adam(1e-3), stream, batch_size=32, epochs=5)
        matrix = np.asarray(runs(learner, seeds).accuracy)
        pooled = np.average(matrix[:, -1], axis=-1, weights=sizes)
        return 100 * pooled, 100 * np.asarray(metrics.harmonic_accuracy(matrix))[:, -1]

    plain = {"prototypes": False, "turns": 0, "lam": 0.0}
    options = {"plain": plain, "contrast": plain | {"lam": 0.1}, "prototypes": plain | {"prototypes": True}}
    options |= {"pseudo": plain | {"turns": 3}, "fscil_tricks": {}}
    found = {name: measured(continual.fscil_tricks(**given)) for name, given in options.items()}
    accuracy, harmonic = ({name: pair[k] for name, pair in found.items()} for k in (0, 1))
    naive = measured(core.identity())[0]
    where = f"{source.name} ({ROWS:,} rows), MLP, 6 classes and then 4 times 1 with 5 shots"
    return [
        gate("cosines of 7 corners less -1 / 6 (largest difference)", _cosines(7), most=1e-5),
        gate("best sum of similarities of 720 assignments less ours (largest of 20)", _assignments(), most=1e-5),
        gate("AdamW: weights outside of the subnetwork after the base (largest difference)", _outside(), most=0),
        estimate(
            f"{where}: points of accuracy on all test rows above plain training and class means "
            f"({means(naive=naive, **accuracy)})",
            accuracy["fscil_tricks"] - accuracy["plain"],
            least=2,
        ),
        estimate(
            f"the same: of the harmonic mean of the accuracy on base and on new classes ({means(**harmonic)})",
            harmonic["fscil_tricks"] - harmonic["plain"],
            least=2,
        ),
    ]


def _cosines(num: int) -> float:
    targets = np.asarray(ops.simplex_targets(num, num + 3), np.float64)
    return float(np.abs((targets @ targets.T)[~np.eye(num, dtype=bool)] + 1 / (num - 1)).max())


def _assignments() -> float:
    rng, short = np.random.default_rng(0), []
    for _ in range(20):
        similarity = rng.uniform(-1, 1, (6, 6))
        best = max(sum(similarity[k, j] for k, j in enumerate(p)) for p in itertools.permutations(range(6)))
        order = np.asarray(assigned(jnp.asarray(similarity, jnp.float32), jnp.zeros(6, bool)))
        short.append(best - similarity[np.arange(6), order].sum())
    return max(short)


def _outside() -> float:
    """Of a network with BatchNorm whose head learns on; its statistics as well."""
    method, stream = representation.subnetwork("^head"), testing.standard_stream()
    learner = core.make_learner(testing.standard_model(), method, optax.adamw(1e-2), stream, batch_size=8)
    data = core.to_device(stream)
    kept, heads = [], []
    state = core.start(learner)
    for t in range(3):
        state = core.run_experience(learner, state, data, t)
        rest = {name: leaf for name, leaf in state.params.items() if name != "head"}
        kept.append(jax.tree.map(np.asarray, (rest, state.model_state)))
        heads.append(jax.tree.map(np.asarray, state.params["head"]))
    return float("inf") if distance(heads[0], heads[2]) == 0 else max(distance(kept[0], k) for k in kept[1:])


CHECK = Check(
    "ctrain_jax.continual.fscil_tricks",
    "Roy et al., A Bag of Tricks for Few-Shot Class-Incremental Learning, 2024, arXiv 2403.14392",
    claims,
    rows=(49,),
    data=True,
)

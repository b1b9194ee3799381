"""Mamba-FSCIL: scan, targets, a silent branch; Fashion-MNIST, six classes and then twice two with 5 shots."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, metrics, models, ops, streams, testing
from ctrain_jax.continual import representation
from experiments._evidence._common import Check, Claim, estimate, gate, means, runs

TESTS, STEPS = 1_000, 400


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.mamba_fscil`."""
    del data_dir
    source = streams.fashion_mnist()
    source = source._replace(test={name: leaf[:TESTS] for name, leaf in source.test.items()})
    stream = streams.few_shot_class_incremental(source, 3, base_classes=6, shots=5)
    model = core.from_linen(models.CNN(10, widths=(8, 16, 32)))

    def measured(method):
        """The harmonic mean of the accuracy on base and on new classes when the stream is over, in percent `[S]`."""
        learner = core.make_learner(model, method, optax.adam(1e-3), stream, batch_size=16, steps=STEPS)
        return 100 * np.asarray(metrics.harmonic_accuracy(np.asarray(runs(learner, seeds).accuracy)))[:, -1]

    by_means = continual.nmc(metric="cosine", train=True, fill="end")
    found = {
        "head": measured(representation.subnetwork("^head")),
        "means": measured(core.chain(representation.subnetwork(), by_means)),
        "mamba_fscil": measured(continual.mamba_fscil((3, 3), states=4)),
    }
    cosines, silent = _targets_and_gate()
    return [
        gate("the scan against the recurrence, position by position (largest difference)", _scan(), most=1e-5),
        gate("lengths of targets less 1, cosines of two less -1 / (C - 1) (largest difference)", cosines, most=1e-5),
        gate("logits when the second experience begins, less those without the second branch", silent, most=0),
        estimate(
            f"{source.name} (10,000 rows), CNN, 6 classes and then 2 times 2 with 5 shots, {STEPS} steps each, Adam: "
            "points of the harmonic mean of the accuracy on base and on new classes above a frozen network whose head "
            f"learns on ({means(**found)})",
            found["mamba_fscil"] - found["head"],
            least=5,
        ),
        estimate(
            "the same: above a frozen network and class means by cosine", found["mamba_fscil"] - found["means"], least=0
        ),
    ]


def _scan() -> float:
    rng = np.random.default_rng(0)
    x, delta = rng.normal(size=(20, 6)), rng.uniform(0.1, 1, size=(20, 6))
    a, d = -rng.uniform(0.5, 2, size=(6, 4)), rng.normal(size=6)
    b, c = rng.normal(size=(20, 4)), rng.normal(size=(20, 4))
    h, expected = np.zeros((6, 4)), []
    for t in range(20):
        h = np.exp(delta[t][:, None] * a) * h + np.outer(delta[t] * x[t], b[t])
        expected.append(h @ c[t] + d * x[t])
    own = ops.selective_scan(*(jnp.asarray(leaf, jnp.float32) for leaf in (x, delta, a, b, c, d)))
    return float(np.abs(own - np.array(expected)).max())


def _targets_and_gate() -> tuple[float, float]:
    """Of the standard learner, trained on its first experience."""
    method, stream = continual.mamba_fscil((2, 2), width=6, states=2), testing.standard_stream()
    learner = core.make_learner(testing.standard_model(), method, optax.adamw(1e-2), stream, batch_size=8)
    data = core.to_device(stream)
    state = core.run_experience(learner, core.start(learner), data, 0)
    state = jax.jit(learner.begin)(state, data, 1)
    targets = np.asarray(state.frozen["targets"], np.float64)
    cosines = np.abs(targets @ targets.T - (1.2 * np.eye(6) - 0.2)).max()
    branches = jax.tree.map(lambda leaf: leaf.at[1].set(0), state.params["projector"]["branches"])
    without = state.params | {"projector": state.params["projector"] | {"branches": branches}}
    x = jnp.asarray(stream.source.train["inputs"])
    logits = [
        method.model(testing.standard_model()).apply(core.Variables(p, state.model_state, state.frozen), x)[0].logits
        for p in (state.params, without)
    ]
    return float(cosines), float(jnp.abs(logits[0] - logits[1]).max())


CHECK = Check(
    "ctrain_jax.continual.mamba_fscil",
    "Li et al., Mamba-FSCIL: Dynamic Adaptation with Selective State Space Model for Few-Shot Class-Incremental "
    "Learning, 2024, arXiv 2407.06136",
    claims,
    rows=(310,),
)

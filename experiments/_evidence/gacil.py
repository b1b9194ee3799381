"""G-ACIL: the head is that of joint ridge regression, exactly; MNIST from random features of its pixels."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, streams
from experiments._evidence._common import Check, Claim, estimate, final, forgotten, gate, handwritten, runs

WIDTH = 2000
ORDERS = {
    "five experiences of two classes": lambda source: streams.class_incremental(source, 5),
    "the same in another order": lambda source: streams.class_incremental(source, 5, seed=7),
    "every class in two experiences": lambda source: _mixed(source),
    "all rows at once": lambda source: streams.joint(streams.class_incremental(source, 5)),
}


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.gacil`."""
    heads, joint, unseen = _exact()
    source = handwritten(data_dir)
    stream = streams.class_incremental(source, 5)

    def measured(model, method, optimizer, **options):
        return runs(core.make_learner(model, method, optimizer, stream, **options), seeds)

    # All that gacil learns it learns at the end of an experience, in one pass of its own.
    gacil = measured(_pixels(), continual.gacil(WIDTH, gamma=0.1), optax.sgd(0.0), steps=1)
    tuned = measured(_expanded(), core.identity(), optax.sgd(0.01), batch_size=32, epochs=1)
    where = f"{source.name} ({len(source.train['labels'])} rows), 5 experiences, {WIDTH} random features of the pixels"
    lost = forgotten(gacil)
    return [
        gate(
            f"float64: the head is (H'H + gamma I)^-1 H'Y of all rows, for {len(heads)} orders, mixtures and batch "
            "sizes (largest absolute difference)",
            max(float(np.max(np.abs(head - joint))) for head in heads),
            most=1e-6,
        ),
        gate("columns of classes never seen are 0 (largest entry)", unseen, most=0),
        estimate(f"{where}: final accuracy", final(gacil), least=93),
        estimate("the same: forgetting in points", lost, most=3),
        estimate("the same: final accuracy of SGD on the same head", final(tuned), most=50),
    ]


def _pixels(dtype: Any = jnp.float32) -> core.Model:
    """Features are the pixels; there is nothing to train."""

    def init(rng, inputs):
        return core.Variables({})

    def apply(variables, inputs, *, train=False, rng=None, task=None):
        x = inputs.reshape(inputs.shape[0], -1).astype(dtype)
        return core.Outputs(jnp.zeros((x.shape[0], 10), dtype), x), variables.model_state

    return core.Model(init, apply)


def _expanded() -> core.Model:
    """A linear head on the random features of gacil."""

    def init(rng, inputs):
        width = inputs[0].size
        expansion = jax.random.normal(rng, (width, WIDTH)) / jnp.sqrt(width)
        return core.Variables({"head": jnp.zeros((WIDTH, 10))}, (), expansion)

    def apply(variables, inputs, *, train=False, rng=None, task=None):
        hidden = jax.nn.relu(inputs.reshape(inputs.shape[0], -1) @ variables.frozen)
        return core.Outputs(hidden @ variables.params["head"]), variables.model_state

    return core.Model(init, apply)


def _mixed(source: core.Source) -> core.Stream:
    """Two experiences that both hold rows of every class."""
    stream = streams.joint(streams.class_incremental(source, 2))
    one = jax.tree.map(lambda x: x[0], stream.experiences["train"])
    rows = np.random.default_rng(0).permutation(one.rows)[: len(one.rows) // 2 * 2].reshape(2, -1)
    everything = np.ones((2, source.num_classes), bool)
    train = core.Experience(
        np.arange(2, dtype=np.int32),
        rows,
        np.zeros_like(rows),
        np.full(2, rows.shape[1], np.int32),
        everything,
        everything,
        np.zeros(2, np.int32),
    )
    return stream._replace(name="mixed", experiences={**stream.experiences, "train": train})


def _exact() -> tuple[list[np.ndarray], np.ndarray, float]:
    """Heads of many streams over the same rows in float64, the joint one by numpy, and what unseen columns hold."""
    whole = streams.digits()
    source = whole._replace(train={k: v[:1436] for k, v in whole.train.items()})
    width, gamma = 300, 0.1
    heads, unseen = [], 0.0
    with jax.enable_x64(True):
        for order in ORDERS.values():
            stream = order(source)
            for batch_size in (1, 32):
                method = continual.gacil(width, gamma=gamma)
                learner = core.make_learner(
                    _pixels(jnp.float64), method, optax.sgd(0.0), stream, batch_size=batch_size, steps=1
                )
                state = core.start(learner)
                for t in range(learner.spec.num_experiences):
                    state = core.run_experience(learner, state, core.to_device(stream), t)
                    seen = np.asarray(stream.experiences["train"].seen[t])
                    columns = np.abs(np.asarray(state.method_state["gacil"].head)[:, ~seen])
                    unseen = max(unseen, float(columns.max(initial=0)))
                heads.append(np.asarray(state.method_state["gacil"].head))
                expansion = np.asarray(state.method_state["gacil"].expansion)
    x = (source.train["inputs"].reshape(1436, -1).astype(np.float32) / np.float32(255)).astype(np.float64)
    hidden = np.maximum(x @ expansion, 0)
    joint = np.linalg.solve(hidden.T @ hidden + gamma * np.eye(width), hidden.T @ np.eye(10)[source.train["labels"]])
    return heads, joint, unseen


CHECK = Check(
    "ctrain_jax.continual.gacil",
    "Zhuang et al., G-ACIL: Analytic Learning for Exemplar-Free Generalized Class Incremental Learning, 2024, "
    "arXiv 2403.15706",
    claims,
    rows=(314,),
    data=True,
)

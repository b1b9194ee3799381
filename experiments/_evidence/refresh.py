"""Refresh learning: nothing without delta, a known ascent with it; around replay no worse than replay."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import Check, Claim, distance, estimate, final, gate, means, runs
from experiments._evidence.er import split_fashion_mnist

SIZE, DELTA = 200, 1e-3


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.refresh`."""
    methods = (continual.er(SIZE), core.chain(continual.refresh(), continual.er(SIZE)))
    er, refresh = (final(runs(split_fashion_mnist(method), seeds)) for method in methods)
    length, rise = _unlearned()
    return [
        gate("delta=0 is experience replay, bit for bit (largest difference of a parameter)", _still(), most=0),
        gate(
            f"no noise, no information, delta={DELTA:g}: a tensor moves by delta times its norm (largest relative "
            "difference)",
            length,
            most=1e-3,
        ),
        gate("and the loss of the batch does not fall (least change over the steps of an experience)", rise, least=0),
        estimate(
            f"class-incremental Split-Fashion-MNIST (10,000 rows), MLP, around er with memory {SIZE}: points of final "
            f"accuracy above er ({means(er=er, refresh=refresh)})",
            refresh - er,
            least=-0.3,
        ),
    ]


def _digits(method: core.Method, optimizer: optax.GradientTransformation) -> core.Learner:
    stream = streams.class_incremental(streams.digits(), 3)
    return core.make_learner(core.from_linen(models.MLP(10, hidden=(32,))), method, optimizer, stream)


def _still() -> float:
    # A compiler may round a product and a sum once, in one of two programs: after a clip there is no product.
    optimizer = optax.chain(optax.sgd(0.1), optax.clip(1e3))
    methods = (continual.er(50), core.chain(continual.refresh(0.0), continual.er(50)))
    return distance(*(core.run_stream(_digits(method, optimizer)).state.params for method in methods))


def _unlearned() -> tuple[float, float]:
    """With an optimizer that stands still, only the unlearning is left."""

    def loss(s, ts, ctx):
        return (ctx.value, ctx.value_fn(ts.params)), ts

    look = core.Method("look", init=lambda rng, params, ctx: (np.float32(0), np.float32(0)), update=loss)
    learner = _digits(core.chain(continual.refresh(DELTA, noise=0.0), look), optax.set_to_zero())
    data, state, step = core.to_device(learner.stream), core.start(learner), jax.jit(learner.step)
    lengths, rises = [], []
    for i in range(learner.spec.steps[0]):
        new, _ = step(state, data, 0, i)
        before, after = new.method_state["look"]
        rises.append(float(after) - float(before))
        for p, q in zip(jax.tree.leaves(state.params), jax.tree.leaves(new.params), strict=True):
            norm = np.linalg.norm(np.float64(p))
            if norm > 0:
                lengths.append(abs(np.linalg.norm(np.float64(q) - np.float64(p)) / (DELTA * norm) - 1))
        state = new
    return max(lengths), min(rises)


CHECK = Check(
    "ctrain_jax.continual.refresh",
    "Wang et al., A Unified and General Framework for Continual Learning, ICLR 2024, arXiv 2403.13249",
    claims,
    rows=(56,),
)

"""CheckFree: a lost block that is averaged from its neighbours, against one that is drawn anew or copied."""

import pydoc_data.topics
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from ctrain_jax import core, fault, models, streams
from experiments._evidence._common import Check, Claim, distance, estimate, gate

STEPS, EVERY = 600, 100
WINDOW, WIDTH, DEPTH = 8, 64, 6


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `fault.checkfree`."""
    found = {recover: _lossy(recover, seeds) for recover in ("average", "random", "copy")}
    (ours, spike), (random, jump), (copy, step) = found.values()
    where = f"bytes of Python's manual, residual MLP of {DEPTH} blocks, one lost every {EVERY} steps"
    return [
        gate("failure_rate=0 is plain training, bitwise (largest difference of a parameter)", _without(), most=0),
        gate("equal weights give the arithmetic mean (largest difference)", _mean(), most=0),
        gate("micro-batches of even number pass through the stages in order (places out of order)", _order(), most=0),
        gate(
            "a lost stage is the mean of its neighbours by the norms of their gradients (largest relative difference, "
            "against numpy)",
            _repair(),
            most=1e-5,
        ),
        estimate(
            f"{where}: nats of the test text after {STEPS} steps below a stage drawn anew "
            f"({_three(average=ours, random=random, copy=copy)})",
            random - ours,
            least=0,
        ),
        estimate("the same: nats below a copy of the stage before", copy - ours, least=0),
        estimate(
            "the same: rise of these nats by a failure, right after it, percent smaller than of a stage drawn anew "
            f"({_three(average=spike, random=jump, copy=step)})",
            100 * (1 - spike / jump),
            least=30,
        ),
    ]


class _Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + nn.Dense(WIDTH)(nn.gelu(nn.Dense(WIDTH)(nn.LayerNorm()(x))))


class _Net(nn.Module):
    @nn.compact
    def __call__(self, inputs, train: bool = False):
        x = nn.Embed(128, 16)(inputs).reshape(inputs.shape[0], 16 * WINDOW)
        x = nn.Dense(WIDTH)(x)
        for index in range(DEPTH):
            x = _Block(name=f"block_{index}")(x)
        x = nn.LayerNorm()(x)
        return core.Outputs(nn.Dense(128)(x), x)


def _writer(method: core.Method) -> core.Learner:
    """Which byte follows the last eight, in a text that comes with Python.

    In 600 steps a GPT of this cost does no better than pairs of bytes would, without a use for its blocks.
    """
    topics = pydoc_data.topics.topics
    text = "\n".join(topics[name] for name in sorted(topics)).encode("ascii", "replace")
    rows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(text, np.uint8).astype(np.int32), WINDOW + 1)
    # A thousand bytes of ten thousand are for the test; the manual is in alphabetical order.
    test = np.arange(len(rows)) // 1000 % 10 == 0
    train, test = rows[~test], rows[test][::10]
    source = streams.arrays(train[:, :-1], train[:, -1], test[:, :-1], test[:, -1], name="manual", num_classes=128)
    loss = core.classification().loss
    problem = core.Problem(loss, lambda outputs, batch: {"nats": loss(outputs, batch)})
    stream, model, tx = streams.class_incremental(source, 1), core.from_linen(_Net()), optax.adam(3e-3)
    return core.make_learner(model, method, tx, stream, problem=problem, batch_size=256, steps=STEPS)


def _reader(method: core.Method) -> core.Learner:
    """Four dense layers of equal shapes on digits."""
    model = core.from_linen(models.MLP(10, hidden=(64,) * 4))
    return core.make_learner(model, method, optax.adam(1e-3), streams.class_incremental(streams.digits(), 1), steps=30)


def _lossy(recover: str, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Nats of the test text at the end `[S]`, and how far a failure raised them, on the mean `[S]`."""
    learner = _writer(fault.checkfree(0.0, recover=recover))
    zero = jnp.int32(0)

    def failing(state, rate):
        return state._replace(method_state={"checkfree": state.method_state["checkfree"]._replace(failure_rate=rate)})

    def run(key, data):
        def stretch(state, given):
            start, rate = given
            state, _ = learner.chunk(state, data, zero, start, EVERY - 1)

            def last(rate):
                after = learner.step(failing(state, rate), data, zero, start + EVERY - 1)[0]
                return after, learner.evaluate(after, data, zero)["nats"][0]

            both, nats = jax.lax.map(last, jnp.stack([jnp.float32(0), rate]))
            return failing(jax.tree.map(lambda x: x[1], both), jnp.float32(0)), nats

        starts = jnp.arange(0, STEPS, EVERY)
        fails = (starts < STEPS - EVERY).astype(jnp.float32)
        nats = jax.lax.scan(stretch, learner.begin(learner.init(key), data, zero), (starts, fails))[1]
        return nats[-1, 1], (nats[:-1, 1] - nats[:-1, 0]).mean()

    # One seed after the other: mapped, every step would compute the repair.
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    data = core.to_device(learner.stream)
    found = jax.jit(lambda keys, data: jax.lax.map(lambda key: run(key, data), keys))(keys, data)
    return tuple(np.asarray(x, np.float64) for x in found)


def _without() -> float:
    learners = [_reader(method) for method in (core.identity(), fault.checkfree(0.0, stages="dense_"))]
    return distance(*[core.run_stream(learner).state.params for learner in learners])


def _mean() -> float:
    stacked = jax.random.normal(jax.random.key(0), (4, 100))
    return distance(fault.neighbour_recover(stacked, 1, jnp.full(4, 0.3))[1], (stacked[0] + stacked[2]) / 2)


def _order() -> float:
    orders = np.asarray([fault.swap_order(6, micro) for micro in (0, 2, 4)])
    return float(np.sum(orders != np.arange(6)))


def _repair() -> float:
    learner = _reader(fault.checkfree(0.0, stages="dense_"))
    data, zero = core.to_device(learner.stream), jnp.int32(0)
    state = core.start(learner)
    own = state.method_state["checkfree"]
    hit = state._replace(method_state={"checkfree": own._replace(failure_rate=jnp.float32(1))})
    step = jax.jit(learner.step)
    plain, after = (step(s, data, zero, zero)[0] for s in (state, hit))
    grads = jax.jit(learner.gradient)(state, data, zero, zero)[1]
    (lost,) = np.flatnonzero(np.asarray(after.method_state["checkfree"].scale) != 1)

    def flat(tree, k):
        return np.concatenate([np.ravel(np.float64(leaf)) for leaf in jax.tree.leaves(tree[f"dense_{k}"])])

    a, b = (np.linalg.norm(flat(grads, k)) + 1e-4 for k in (lost - 1, lost + 1))
    expected = (a * flat(plain.params, lost - 1) + b * flat(plain.params, lost + 1)) / (a + b)
    return float(np.max(np.abs(flat(after.params, lost) - expected)) / np.max(np.abs(expected)))


def _three(**named: np.ndarray) -> str:
    return ", ".join(f"{name} {values.mean():.3f}" for name, values in named.items())


CHECK = Check(
    "ctrain_jax.fault.checkfree",
    "Blagoev, Ersoy and Chen, All is Not Lost: LLM Recovery without Checkpoints, 2025, arXiv 2506.15461",
    claims,
    (163,),
)

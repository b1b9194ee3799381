"""What the step of `core` costs more than the same mathematics, written by hand."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._speed import _by_hand
from experiments._speed._common import Measure, Options, Program, Suite, copied, in_turns, ratio

CAPACITY = 1000
METHODS: dict[str, Callable[[], core.Method]] = {
    "naive": core.identity,
    "ewc": lambda: continual.ewc(_by_hand.LAM, fisher="sampled"),
    "er": lambda: continual.er(CAPACITY),
    "derpp": lambda: continual.derpp(CAPACITY, alpha=_by_hand.ALPHA, beta=_by_hand.BETA),
    "lwf": lambda: continual.lwf(temperature=_by_hand.TEMPERATURE),
}


class Size(NamedTuple):
    """A network and what it is shown."""

    module: nn.Module
    shape: tuple[int, ...]
    batch: int
    steps: int  # timed at once


SIZES = {
    "mlp_10": Size(models.MLP(10, hidden=(400, 400)), (28, 28), 10, 300),
    "mlp_128": Size(models.MLP(10, hidden=(400, 400)), (28, 28), 128, 100),
    "slim_resnet18_32": Size(models.ResNet18(10, width=20), (32, 32, 3), 32, 2),
}
TINY = {"mlp_10": Size(models.MLP(10, hidden=(8,)), (4, 4), 10, 3)}


def run(options: Options) -> Iterator[Measure]:
    """The ratio of the seconds of a step, ours to that by hand, for each method and size."""
    rounds = 3 if options.small else 31
    for name, size in (TINY if options.small else SIZES).items():
        for kind in METHODS:
            ours, by_hand, _ = programs(kind, size)
            times = in_turns({"ours": ours, "by_hand": by_hand, "again": by_hand}, rounds)
            found = ratio(times["ours"], times["by_hand"])
            same = ratio(times["again"], times["by_hand"])
            detail = found | {"same_program": same["ratio"], "step_ms": 1e3 * min(times["by_hand"]) / size.steps}
            yield Measure(f"{kind}/{name}", found["ratio"], 1.05 if kind == "naive" else 1.10, detail=detail)


def programs(kind: str, size: Size) -> tuple[Program, Program, Callable[[Any], _by_hand.Hand]]:
    """The steps of the second experience, ours and by hand, from one state; and how the state is read by hand."""
    stream = random_stream(size.shape, rows=size.batch * max(size.steps, 20))
    learner = core.make_learner(
        core.from_linen(size.module), METHODS[kind](), optax.adam(1e-3), stream, batch_size=size.batch, steps=size.steps
    )
    data = core.to_device(stream)
    state = core.run_experience(learner, core.start(learner, 0), data, 0)
    state = jax.jit(learner.begin)(state, data, np.int32(1))
    chunk = jax.jit(learner.chunk, donate_argnums=0)
    place = np.int32(1), np.int32(0), np.int32(size.steps)
    ours = Program(lambda state: chunk(state, data, *place), lambda: copied(state))

    arrays = _by_hand.Arrays(
        data.source["train"]["inputs"],
        data.source["train"]["labels"],
        data.experiences["train"].rows,
        data.experiences["train"].size,
    )
    loop = _by_hand.chunk_of(kind, size.module, optax.adam(1e-3), size.batch, CAPACITY)
    hand_chunk = jax.jit(loop, donate_argnums=0)
    by_hand = Program(lambda hand: hand_chunk(hand, arrays, *place), lambda: copied(read(kind, state)))
    return ours, by_hand, lambda state: read(kind, state)


def read(kind: str, state: core.TrainState) -> _by_hand.Hand:
    """A state of ours, as the loop by hand keeps it."""
    stats = state.model_state.get("batch_stats", {})
    memory: Any = ()
    if kind != "naive":
        own = state.method_state[kind]
        if kind == "ewc":
            memory = own.fisher, own.anchor
        elif kind == "lwf":
            teacher = own.teacher.params, own.teacher.model_state.get("batch_stats", {})
            memory = teacher, own.heads.any(-1).sum().astype(jnp.float32)
        else:
            held = own.buffer.records
            memory = (held["row"], *((held["logits"],) if kind == "derpp" else ()), own.buffer.seen)
    return _by_hand.Hand(state.params, stats, state.opt_state, memory, state.rng)


def random_stream(shape: tuple[int, ...], rows: int, experiences: int = 2, classes: int = 10) -> core.Stream:
    """Images of noise: what a step costs does not depend on what they show."""
    rng = np.random.default_rng(0)
    num = rows * experiences
    labels = np.arange(num) % classes
    inputs = rng.integers(0, 256, (num, *shape), dtype=np.uint8)
    few = 2 * classes
    source = streams.arrays(inputs, labels, inputs[:few], labels[:few])
    return streams.class_incremental(source, experiences)


SUITE = Suite("our step against a loop by hand, five methods and three sizes", run)

"""What grows with a stream: the time of a step and the memory, as experiences, classes, buffer and seeds grow."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models
from experiments._speed._common import Measure, Options, Program, Suite, copied, in_turns, ratio
from experiments._speed.overhead import random_stream

METHODS: dict[str, Callable[[], core.Method]] = {
    "naive": core.identity,
    "er": lambda: continual.er(1000),
    "derpp": lambda: continual.derpp(1000),
    "ewc_online": lambda: continual.ewc(100.0, online=True, fisher="sampled"),
    "lwf": continual.lwf,
}
BUFFERS = {"er": continual.er, "derpp": continual.derpp}
EXPERIENCES, CAPACITIES, CLASSES, SEEDS = (5, 20, 100), (200, 2_000, 20_000, 100_000), (100, 1_000), (1, 4, 16)
STEPS, ROUNDS, MOST = 300, 11, 1.10


def run(options: Options) -> Iterator[Measure]:
    """Ratios of the seconds of a step to those of the smallest; bytes; how often a stream is traced."""
    steps, rounds = (3, 3) if options.small else (STEPS, ROUNDS)
    for kind in METHODS:
        yield from _experiences(kind, steps, rounds)
    for kind in BUFFERS:
        yield from _capacities(kind, steps, rounds)
    yield from _classes(steps, rounds)
    yield from _seeds(steps, rounds)
    for kind in METHODS:
        yield Measure(f"traces/{kind}/100_experiences", _traces(kind), 1.0)


def _experiences(kind: str, steps: int, rounds: int) -> Iterator[Measure]:
    made = {num: _learner(METHODS[kind](), steps, experiences=num) for num in EXPERIENCES}
    times = in_turns({str(num): _second(learner) for num, learner in made.items()}, rounds)
    for num in EXPERIENCES[1:]:
        found = ratio(times[str(num)], times[str(EXPERIENCES[0])])
        yield Measure(f"step_time/{kind}/{num}_experiences", found["ratio"], MOST, detail=found)
    for num in (EXPERIENCES[0], EXPERIENCES[-1]):
        yield Measure(f"state_bytes/{kind}/{num}_experiences", _bytes(core.start(made[num], 0).method_state))


def _capacities(kind: str, steps: int, rounds: int) -> Iterator[Measure]:
    made = {size: _learner(BUFFERS[kind](size), steps) for size in CAPACITIES}
    times = in_turns({str(size): _second(learner, fill=True) for size, learner in made.items()}, rounds)
    for size in CAPACITIES[1:]:
        found = ratio(times[str(size)], times[str(CAPACITIES[0])])
        yield Measure(f"step_time/{kind}/{size}_rows", found["ratio"], MOST, detail=found)
    held = core.start(made[CAPACITIES[-1]], 0).method_state[kind].buffer.records
    index = sum(_bytes(held[name]) for name in ("row", "experience"))
    yield Measure(f"index_bytes_a_row/{kind}", index / CAPACITIES[-1], 8.0)


def _classes(steps: int, rounds: int) -> Iterator[Measure]:
    made = {num: _learner(continual.er(1000), steps, classes=num) for num in CLASSES}
    times = in_turns({str(num): _second(learner) for num, learner in made.items()}, rounds)
    found = ratio(times[str(CLASSES[1])], times[str(CLASSES[0])])
    yield Measure(f"step_time/er/{CLASSES[1]}_classes", found["ratio"], detail=found)


def _seeds(steps: int, rounds: int) -> Iterator[Measure]:
    learner = _learner(continual.er(1000), steps)
    times = in_turns({str(num): _second(learner, seeds=num) for num in SEEDS}, rounds)
    for num in SEEDS[1:]:
        found = ratio(times[str(num)], times[str(SEEDS[0])])
        yield Measure(f"time_of_seeds/er/{num}_to_1", found["ratio"], detail=found)


def _traces(kind: str) -> int:
    """How often the steps of a whole stream of 100 experiences are traced."""
    learner, count = _learner(METHODS[kind](), 1, experiences=100), [0]

    def chunk(*args: Any) -> Any:
        count[0] += 1
        return learner.chunk(*args)

    core.run_stream(learner._replace(chunk=chunk), 0)
    return count[0]


def _learner(method: core.Method, steps: int, experiences: int = 5, classes: int = 100) -> core.Learner:
    stream = random_stream((28, 28), rows=200, experiences=experiences, classes=classes)
    model = core.from_linen(models.MLP(classes, hidden=(400, 400)))
    return core.make_learner(model, method, optax.adam(1e-3), stream, batch_size=10, steps=steps)


def _second(learner: core.Learner, *, fill: bool = False, seeds: int | None = None) -> Program:
    """The steps of the second experience; with a memory that is full, where it is to be filled."""
    data = core.to_device(learner.stream)
    state = core.start(learner, 0 if seeds is None else range(seeds))
    state = core.run_experience(learner, state, data, 0)
    if fill:
        state = state._replace(method_state={name: _filled(s) for name, s in state.method_state.items()})
    many = (0, None, None, None, None)
    chunk = jax.jit(learner.chunk if seeds is None else core.mapped(learner.chunk, many), donate_argnums=0)
    place = np.int32(1), np.int32(0), np.int32(learner.spec.steps[1])
    return Program(lambda state: chunk(state, data, *place), lambda: copied(state))


def _filled(s: Any) -> Any:
    """A memory in whose every slot is a row of the first experience."""
    size = s.buffer.records["row"].shape[0]
    rows = s.buffer.records | {"row": jnp.arange(size, dtype=jnp.int32) % 200}
    return s._replace(buffer=s.buffer._replace(records=rows, seen=jnp.int32(size)))


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


SUITE = Suite("time and memory of a step as experiences, classes, buffer and seeds grow", run)

"""Convolutions inside a compiled loop on a CPU, where XLA's own are many times slower than outside of one."""

from collections.abc import Iterator
from unittest import mock

import jax
import numpy as np
import optax

from ctrain_jax import core, models
from experiments._speed._common import Measure, Options, Program, Suite, copied, in_turns, ratio
from experiments._speed.overhead import random_stream

BATCH, STEPS = 64, 2


def run(options: Options) -> Iterator[Measure]:
    """A training step of the slim ResNet-18 inside our loop against a jitted one outside, with `jax.lax.conv`."""
    width, side, batch, rounds = (2, 8, 4, 3) if options.small else (20, 32, BATCH, 15)
    stream = random_stream((side, side, 3), rows=batch * 20)
    model = core.from_linen(models.ResNet18(10, width=width))
    learner = core.make_learner(model, core.identity(), optax.sgd(0.1), stream, batch_size=batch, steps=STEPS)
    data, state = core.to_device(stream), core.start(learner, 0)
    first, start, length = np.int32(0), np.int32(0), np.int32(STEPS)
    chunk, step = jax.jit(learner.chunk, donate_argnums=0), jax.jit(learner.step, donate_argnums=0)
    with mock.patch.object(jax, "default_backend", return_value="an accelerator"):
        step = step.lower(state, data, first, start).compile()

    def one_by_one(state: core.TrainState) -> core.TrainState:
        for i in range(STEPS):
            state, _ = step(state, data, first, np.int32(i))
        return state

    programs = {
        "inside": Program(lambda state: chunk(state, data, first, start, length), lambda: copied(state)),
        "outside": Program(one_by_one, lambda: copied(state)),
    }
    times = in_turns(programs, rounds)
    found = ratio(times["inside"], times["outside"])
    detail = found | {"outside_step_ms": 1e3 * min(times["outside"]) / STEPS}
    yield Measure("inside_to_outside/slim_resnet18_64", found["ratio"], 1.0, detail=detail)


SUITE = Suite("convolutions inside our loop against a jitted step outside of one (CPU)", run)

"""What it costs to survive faults: a checkpoint a minute, and a look at the numbers once a chunk."""

import statistics
import tempfile
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import core, models
from experiments._speed._common import Measure, Options, Program, Suite, copied, in_turns, ratio, seconds
from experiments._speed.overhead import random_stream

MINUTE = 60.0  # between two checkpoints of the binary
CHUNK = 1.0  # seconds of a chunk of the binary


def run(options: Options) -> Iterator[Measure]:
    """Seconds that training stands still, and how much slower it is meanwhile; a look at the state."""
    yield from _checkpoints(2 if options.small else 500, 2 if options.small else 5)
    yield from _numbers((16,) if options.small else (400, 400), 2 if options.small else 15)


def _checkpoints(megabytes: int, rounds: int) -> Iterator[Measure]:
    state = jax.block_until_ready([jnp.full((megabytes * 25_000,), float(k)) for k in range(10)])
    weights = jax.random.normal(jax.random.key(1), (512, 512)) / 23
    compute = jax.jit(lambda x: jax.lax.fori_loop(0, 100, lambda _, x: jnp.tanh(x @ weights), x))
    # Longer than a save goes on in the background.
    repeats = 1 + round((0.2 if megabytes < 10 else 6.0) / seconds(Program(lambda _: compute(weights))))

    def train() -> float:
        return sum(seconds(Program(lambda _: compute(weights))) for _ in range(repeats))

    blocked, slowed, plain = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        store = core.open_checkpoints(folder, keep=1)
        for k in range(rounds + 1):
            plain.append(train())
            began = time.perf_counter()
            store.save(k, state)
            blocked.append(time.perf_counter() - began)
            slowed.append(blocked[-1] + train())
        store.close()
    # The first save starts threads.
    blocked, slowed, plain = blocked[1:], slowed[1:], plain[1:]
    yield Measure("blocked_seconds_a_minute/500_MB", statistics.median(blocked), 0.6, detail={"of_saves": blocked})
    extra = statistics.median(a - b for a, b in zip(slowed, plain, strict=True))
    yield Measure("share_of_a_minute/500_MB", extra / MINUTE, 0.05, detail={"with": slowed, "without": plain})


def _numbers(hidden: tuple[int, ...], rounds: int) -> Iterator[Measure]:
    stream = random_stream((28, 28), rows=2_000)
    steps = 50

    def learner(skip: bool) -> core.Learner:
        model = core.from_linen(models.MLP(10, hidden=hidden))
        options = {"batch_size": 128, "steps": steps, "skip_nonfinite": skip}
        return core.make_learner(model, core.identity(), optax.adam(1e-3), stream, **options)

    plain, skipping = learner(False), learner(True)
    data, state = core.to_device(stream), core.start(plain, 0)
    first, start, length = np.int32(0), np.int32(0), np.int32(steps)

    def program(made: core.Learner) -> Program:
        chunk = jax.jit(made.chunk, donate_argnums=0)
        return Program(lambda state: chunk(state, data, first, start, length), lambda: copied(state))

    programs = {"plain": program(plain), "skipping": program(skipping)}
    times = in_turns(programs, rounds)
    record = {"loss": jnp.float32(1)}
    look = statistics.median(in_turns({"look": Program(lambda _: core.broken(state, record))}, rounds)["look"])
    yield Measure("look_of_a_chunk/mlp_400", look / CHUNK, 0.01, detail={"seconds": look})
    found = ratio(times["skipping"], times["plain"])
    yield Measure("skipping_to_plain/mlp_400_128", found["ratio"], detail=found)


SUITE = Suite("a checkpoint of 500 MB a minute, and looking for numbers that are not finite", run)

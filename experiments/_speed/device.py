"""What an accelerator is used for: seeds as one program, and training steps against the rate of matrix products.

It runs anywhere; on a CPU sizes are scaled down and nothing has a bound.
"""

import functools
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import core, models, streams
from experiments import _cost
from experiments._speed import peer
from experiments._speed._common import Measure, Options, Program, Suite, copied, in_processes, in_turns, ratio
from experiments._speed.overhead import METHODS, random_stream

DTYPES = {"fp32": jnp.float32, "bf16": jnp.bfloat16}
GOALS = {"gpt_124m/bf16": 0.45, "vit_s16/bf16": 0.30}


class Net(NamedTuple):
    """A network, what it is shown, and the same for torch, where there is one."""

    build: Callable[[Any], nn.Module]  # of a dtype
    shape: tuple[int, ...]
    batch: int
    torch: dict[str, Any] | None = None


NETS = {
    "slim_resnet18": Net(lambda dtype: models.ResNet18(10, width=20, dtype=dtype), (32, 32, 3), 128),
    "resnet18": Net(lambda dtype: models.ResNet18(10, width=64, dtype=dtype), (32, 32, 3), 128),
    "vit_s16": Net(
        lambda dtype: models.ViT(1000, patch=16, width=384, depth=12, heads=6, dtype=dtype),
        (224, 224, 3),
        128,
        {"kind": "vit", "width": 384, "depth": 12, "heads": 6, "patch": 16},
    ),
    "gpt_124m": Net(
        lambda dtype: models.GPT(50257, width=768, depth=12, heads=12, context=1024, dtype=dtype),
        (1024,),
        8,
        {"kind": "gpt", "width": 768, "depth": 12, "heads": 12, "vocabulary": 50257},
    ),
}
SMALL = {
    "slim_resnet18": Net(lambda dtype: models.ResNet18(10, width=4, dtype=dtype), (16, 16, 3), 8),
    "vit": Net(
        lambda dtype: models.ViT(10, patch=8, width=32, depth=2, heads=2, dtype=dtype),
        (32, 32, 3),
        8,
        {"kind": "vit", "width": 32, "depth": 2, "heads": 2, "patch": 8},
    ),
    "gpt": Net(
        lambda dtype: models.GPT(256, width=64, depth=2, heads=2, context=64, dtype=dtype),
        (64,),
        8,
        {"kind": "gpt", "width": 64, "depth": 2, "heads": 2, "vocabulary": 256},
    ),
}


def run(options: Options) -> Iterator[Measure]:
    """Ratios of seeds, model FLOP utilisation, and times against torch.compile."""
    scaled = options.small or jax.default_backend() == "cpu"
    rounds = 3 if scaled else 15
    yield from _seeds(scaled, rounds)
    rates = {name: _matmul_rate(dtype, 512 if scaled else 8192, rounds) for name, dtype in DTYPES.items()}
    for name, rate in rates.items():
        yield Measure(f"tera_flops/matmul/{name}", rate / 1e12)
    for name, net in (SMALL if scaled else NETS).items():
        for kind, dtype in DTYPES.items():
            yield from _training(f"{name}/{kind}", net, dtype, rates[kind], rounds, steps=2 if scaled else 10)


def _seeds(scaled: bool, rounds: int) -> Iterator[Measure]:
    """A stream of the shape of Split-MNIST, one pass, for more and more seeds in one program."""
    rows, hidden, counts = (60, (32,), (1, 2, 4)) if scaled else (12_000, (400, 400), (1, 10, 100))
    stream = random_stream((28, 28), rows=rows, experiences=5)
    data = core.to_device(stream)
    for kind, method in METHODS.items():
        model = core.from_linen(models.MLP(10, hidden=hidden))
        learner = core.make_learner(model, method(), optax.adam(1e-3), stream, batch_size=128)
        fused = jax.jit(core.mapped(functools.partial(core.run_fused, learner), (None, 0)))
        programs = {}
        for count in counts:
            keys = jnp.stack([jax.random.key(seed) for seed in range(count)])
            programs[str(count)] = Program(lambda _, fused=fused, keys=keys: fused(data, keys).accuracy)
        times = in_turns(programs, rounds)
        for count in counts[1:]:
            found = ratio(times[str(count)], times[str(counts[0])])
            bound = 1.5 if count == 10 and not scaled else None
            yield Measure(f"time_of_seeds/{kind}/{count}_to_1", found["ratio"], bound, detail=found)


def _matmul_rate(dtype: Any, size: int, rounds: int) -> float:
    """Floating-point operations a second of a product of two square matrices: what the device can do."""
    x = jnp.ones((size, size), dtype)
    times = 10
    chain = jax.jit(lambda a: jax.lax.fori_loop(0, times, lambda i, c: (c @ a) / size, a))
    best = min(in_turns({"matmul": Program(lambda _: chain(x))}, rounds)["matmul"])
    return times * 2 * size**3 / best


def _training(name: str, net: Net, dtype: Any, rate: float, rounds: int, steps: int) -> Iterator[Measure]:
    """A training step of ours in its loop: the share of the rate of matrix products that its mathematics takes."""
    stream, problem = stream_of(net)
    learner = core.make_learner(
        core.from_linen(net.build(dtype)), core.identity(), optax.adamw(1e-3), stream,
        problem=problem, batch_size=net.batch, steps=steps, eval_batch_size=net.batch,
    )  # fmt: skip
    data, state = core.to_device(stream), core.start(learner, 0)
    place = np.int32(0), np.int32(0), np.int32(steps)
    chunk = jax.jit(learner.chunk, donate_argnums=0)
    times = in_turns({"ours": Program(lambda state: chunk(state, data, *place), lambda: copied(state))}, rounds)
    second = min(times["ours"]) / steps
    flops = _cost.step_flops(learner, data, state)
    detail = {"step_ms": 1e3 * second, "giga_flops_a_step": flops / 1e9}
    if net.torch is not None:
        detail["giga_flops_by_formula"] = transformer_flops(net, state.params) / 1e9
    goal = GOALS.get(name)
    yield Measure(f"utilisation/{name}", flops / second / rate, goal, at_least=True, detail=detail)
    if net.torch is not None and (python := _python_with_torch()):
        size = net.torch | {"shape": net.shape, "batch": net.batch, "steps": steps, "rounds": rounds}
        size["dtype"] = jnp.dtype(dtype).name
        program = [python, str(Path(__file__).with_name("_torch.py")), json.dumps(size)]
        (other,) = in_processes({"torch": program}, 1)["torch"]
        yield Measure(f"time_to_torch_compile/{name}", 1e3 * second / other["torch_step_ms"], detail=other)


def stream_of(net: Net) -> tuple[core.Stream, core.Problem]:
    """Noise of the shape that a network takes, and what is asked of it."""
    rng = np.random.default_rng(0)
    if len(net.shape) == 3:
        return random_stream(net.shape, rows=2 * net.batch, experiences=1), core.classification()
    tokens = rng.integers(0, 256, (2 * net.batch, *net.shape), dtype=np.int32)
    kinds = np.zeros(len(tokens), np.int32)
    source = streams.arrays(tokens, kinds, tokens[:2], kinds[:2], num_classes=1)
    return streams.class_incremental(source, 1), core.next_token()


def transformer_flops(net: Net, params: Any) -> float:
    """6 operations a parameter and token for products, and 12 a pair of tokens and unit of width for attention."""
    kind = net.torch or {}
    number = sum(leaf.size for leaf in jax.tree.leaves(params))
    tokens = net.shape[0] if kind["kind"] == "gpt" else (net.shape[0] // kind["patch"]) ** 2 + 1
    return net.batch * tokens * (6.0 * number + 12.0 * kind["depth"] * kind["width"] * tokens)


def _python_with_torch() -> str | None:
    if importlib.util.find_spec("torch"):
        return sys.executable
    return str(peer.PYTHON) if peer.PYTHON.is_file() else None


SUITE = Suite("seeds in one program and training steps against the device's rate; scaled down on a CPU", run)

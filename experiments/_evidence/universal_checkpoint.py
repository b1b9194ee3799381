"""Universal Checkpointing: a run saved on 4 x 2 devices goes on on any others, and ranks' parts on any number."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AxisType, PartitionSpec

from ctrain_jax import continual, core, fault, models, streams
from experiments._evidence._common import Check, Claim, estimate, gate

STEPS, MORE = 20, 20
SAVED, RESTORED = (4, 2), ((2, 2), (1, 1), (8, 1))
# Kernels by their columns, as tensor parallelism does, where the axis "model" divides them.
RULES = (("dense.*kernel", PartitionSpec(None, "model")),)


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `fault.universal_checkpoint`."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", __name__, *map(str, seeds)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the runs on 8 devices failed: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    meshes = ", ".join(f"{data}x{model}" for data, model in RESTORED)
    where = f"digits, MLP and a memory of 100 rows, {STEPS} steps on {SAVED[0]}x{SAVED[1]} devices (data x model)"
    return [
        gate(f"{where}, restored on {meshes}: leaves that differ in a bit", found["leaves"], most=0),
        estimate(f"the same: losses of the next {MORE} steps, largest relative difference", found["losses"], most=1e-5),
        gate("the same: rows of memory that differ after them", found["rows"], most=0),
        gate(
            "a fused kernel of 12 heads, from 4 ranks to 2, against slices of heads (values that differ)",
            _heads(),
            most=0,
        ),
        gate("an axis of 11 filled up to 12 for 4 ranks: values of the whole that are padding", _padding(), most=0),
    ]


def measure(seeds: Sequence[int]) -> dict[str, Any]:
    """Differences, those of losses for each seed, in a process that has eight devices."""
    found: dict[str, Any] = {"leaves": 0.0, "losses": [], "rows": 0.0}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            saved, losses, rows = _run(SAVED, folder, seed)
            found["losses"].append(0.0)
            for shape in RESTORED:
                restored, others, other_rows = _run(shape, folder, seed)
                found["leaves"] += sum(a.tobytes() != b.tobytes() for a, b in zip(saved, restored, strict=True))
                found["losses"][-1] = max(found["losses"][-1], float(np.max(np.abs(losses - others) / losses)))
                found["rows"] += int(np.sum(rows != other_rows))
    return found


def _run(shape: tuple[int, int], folder: str, seed: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """The leaves of the checkpoint as they lie on the mesh, the losses after it, and the memory at the end."""
    devices = jax.devices()[: shape[0] * shape[1]]
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices)
    stream = streams.class_incremental(streams.digits(), 2)
    learner = core.make_learner(
        core.from_linen(models.MLP(10, hidden=(32, 32))),
        continual.er(100),
        optax.adam(1e-3),
        stream,
        batch_size=16,
        steps=STEPS + MORE,
        mesh=mesh,
        rules=RULES,
    )
    data, state, store = core.to_device(stream, mesh), core.start(learner, seed), core.open_checkpoints(folder)
    begin, step = jax.jit(learner.begin), jax.jit(learner.step)
    restored = store.restore(state)
    if restored is None:
        state = begin(state, data, np.int32(0))
        for i in range(STEPS):
            state, _ = step(state, data, np.int32(0), np.int32(i))
        store.save(STEPS, state)
    else:
        state = restored.state
    store.close()
    leaves = [np.asarray(x) for x in jax.tree.leaves((state.params, state.opt_state, state.method_state))]
    losses = []
    for i in range(STEPS, STEPS + MORE):
        state, record = step(state, data, np.int32(0), np.int32(i))
        losses.append(float(record["loss"]))
    return leaves, np.array(losses), np.asarray(state.method_state["er"].buffer.records["row"])


def _heads() -> float:
    heads, width = 12, 4
    blocks = (heads * width,) * 3
    whole = {"qkv": np.random.default_rng(0).normal(size=(8, sum(blocks)))}
    pair = fault.universal_checkpoint([("qkv", fault.Held("sharded", axis=1, blocks=blocks))])
    halves: list[Any] = pair.partition(pair.consolidate(pair.partition(whole, 4)), 2)
    by_head = whole["qkv"].reshape(8, 3, heads, width)
    wanted = [by_head[:, :, :6].reshape(8, -1), by_head[:, :, 6:].reshape(8, -1)]
    return float(sum(np.sum(half["qkv"] != want) for half, want in zip(halves, wanted, strict=True)))


def _padding() -> float:
    whole = {"embed": np.ones((11, 3))}
    pair = fault.universal_checkpoint([("embed", fault.Held("sharded", size=11))])
    parts: list[Any] = pair.partition(whole, 4)
    parts[-1]["embed"][-1] = np.nan
    back = pair.consolidate(parts)["embed"]
    return float(np.sum(back != 1)) + abs(len(back) - 11)


CHECK = Check(
    "ctrain_jax.fault.universal_checkpoint",
    "Lian et al., Universal Checkpointing: Efficient and Flexible Checkpointing for Large Scale Distributed Training, "
    "2024, arXiv 2406.18820",
    claims,
    (179,),
)

if __name__ == "__main__":
    print(json.dumps(measure([int(seed) for seed in sys.argv[1:]])))

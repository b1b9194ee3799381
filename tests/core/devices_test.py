"""The number of devices is not a variable of the experiment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json, sys
import jax, jax.numpy as jnp, numpy as np, optax
from ctrain_jax import continual, core, testing
count, folder = int(sys.argv[1]), sys.argv[2]
mesh = jax.make_mesh((count,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:count])
stream = testing.standard_stream()
method = core.chain(continual.ewc(1.0, online=True), continual.er(20), continual.derpp(20))
shards = []
def look(s, ts, ctx):
    jax.debug.inspect_array_sharding(ctx.incoming["inputs"], callback=lambda x: shards.append(x))
    return s, ts
watch = core.Method("watch", update=look)
learner = core.make_learner(testing.standard_model(), core.chain(method, watch), optax.adamw(3e-3), stream,
                            batch_size=8, steps=50, eval_batch_size=64, mesh=mesh)
data, state = core.to_device(stream, mesh), core.start(learner, 0)
lengths = iter([50, 25, 25, 50])
store = core.open_checkpoints(folder)
restored = store.restore(state)
if restored is not None:
    state = restored.state
    next(lengths), next(lengths)
losses = []
for event in core.iterate(learner, data, state, chunk_steps=lambda: next(lengths)):
    state = event.state
    losses.append(float(event.record["loss"]))
    if restored is None and event.experience == 1 and event.step == 25:
        store.save(int(state.step), state)
store.close()
(batch,) = {str(s.spec) if hasattr(s, "spec") else str(s) for s in shards}
distinct = {tuple(map(str, index)) for index in shards[0].devices_indices_map((8, 12)).values()}
leaves = {jax.tree_util.keystr(p): np.asarray(x).tolist()
          for p, x in jax.tree_util.tree_leaves_with_path((state.params, state.model_state))}
rows = {n: np.asarray(state.method_state[n].buffer.records["row"]).tolist() for n in ("er", "derpp")}
print(json.dumps({"leaves": leaves, "rows": rows, "shards": len(distinct), "devices": jax.device_count(),
                  "step": int(state.step), "losses": losses, "restored": restored is not None}))
"""


def run(count, folder):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = [sys.executable, "-c", PROGRAM, str(count), str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {count: run(count, folder / str(count)) for count in (1, 2, 8)}, folder


def close(a, b):
    assert a["rows"] == b["rows"]
    for name, leaf in a["leaves"].items():
        np.testing.assert_allclose(leaf, b["leaves"][name], rtol=2e-3, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("count", [2, 8])
def test_devices_change_nothing_but_rounding_and_share_the_batch(runs, count):
    runs, _ = runs
    assert [runs[n]["shards"] for n in (1, 2, 8)] == [1, 2, 8]
    assert runs[count]["step"] == 150 and runs[count]["devices"] == 8
    close(runs[1], runs[count])


@pytest.mark.parametrize("saved, restored", [(8, 2), (1, 8)])
def test_checkpoints_move_between_device_counts(runs, saved, restored):
    runs, folder = runs
    resumed = run(restored, folder / str(saved))
    assert resumed["restored"] and resumed["step"] == 150
    close(runs[1], resumed)

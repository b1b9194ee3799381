"""The number of devices is not a variable of the experiment."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from ctrain_jax import core, testing
from tests.quick import on_devices

ROOT = Path(__file__).parents[2]

# Argument: a list of runs, each a dict. One process is one set of 8 devices.
PROGRAM = """
import json, sys
import flax.linen as nn
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import PartitionSpec as P
from ctrain_jax import continual, core, testing

class Net(nn.Module):
    "Without statistics of a batch, so that it may be of any size; with dropout."
    @nn.compact
    def __call__(self, inputs, train=False):
        hidden = nn.Dropout(0.2, deterministic=not train)(nn.relu(nn.Dense(16)(inputs)))
        return core.Outputs(nn.Dense(6, name="head")(hidden), hidden)

def run(count, folder, batch_size=8, rules=(), spread=False, whole=False):
    mesh = core.data_mesh(jax.devices()[:count])
    stream = testing.standard_stream()
    method = core.chain(continual.ewc(1.0, online=True), continual.er(20), continual.derpp(20))
    shards = []
    model = testing.standard_model() if batch_size == 8 else core.from_linen(Net())
    def look(variables, inputs, **options):
        if options.get("train"):
            jax.debug.inspect_array_sharding(inputs, callback=lambda x: shards.append((x, inputs.shape)))
        return model.apply(variables, inputs, **options)
    rules = tuple((pattern, P(*spec)) for pattern, spec in rules)
    learner = core.make_learner(core.Model(model.init, look), method, optax.adamw(3e-3), stream, batch_size=batch_size,
                                steps=50, eval_batch_size=60, mesh=mesh, rules=rules)
    data, state = core.to_device(stream, mesh, spread=spread), core.start(learner, 0)
    lengths = iter([50, 25, 25, 50])
    store = core.open_checkpoints(folder)
    restored = store.restore(state)
    if restored is not None:
        state = restored.state
        next(lengths), next(lengths)
    losses, metrics = [], []
    for event in core.iterate(learner, data, state, chunk_steps=lambda: next(lengths)):
        state = event.state
        losses.append(float(event.record["loss"]))
        if event.metrics is not None:
            metrics.append(event.metrics["accuracy"].tolist())
        if restored is None and event.experience == 1 and event.step == 25:
            store.save(int(state.step), state)
    store.close()
    last, shape = shards[-1]
    distinct = {tuple(map(str, index)) for index in last.devices_indices_map(shape).values()}
    named = jax.tree_util.tree_leaves_with_path((state.params, state.model_state, state.opt_state))
    parts = {jax.tree_util.keystr(p): x.size // x.addressable_shards[0].data.size for p, x in named}
    return {"leaves": {jax.tree_util.keystr(p): np.asarray(x).tolist() for p, x in named}, "parts": parts,
            "rows": {n: np.asarray(state.method_state[n].buffer.records["row"]).tolist() for n in ("er", "derpp")},
            "shards": len(distinct), "forward": sorted({shape[0] for _, shape in shards}),
            "step": int(state.step), "losses": losses,
            "metrics": metrics, "restored": restored is not None, "devices": jax.device_count(),
            "source": [len(x.addressable_shards[0].data) for x in jax.tree.leaves(data.source)]}

print(json.dumps([run(**options) for options in json.loads(sys.argv[1])]))
"""


def run(*options):
    command = [sys.executable, "-c", PROGRAM, json.dumps(options)]
    done = subprocess.run(command, cwd=ROOT, env=on_devices(8), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")

    def options(count, name, **more):
        return {"count": count, "folder": str(folder / name), **more}

    kernels, moved = [["kernel", ["data"]]], "8"
    plans = {
        "1": options(1, "1"),
        "2": options(2, "2"),
        "4": options(4, "4"),
        "8": options(8, moved),
        "8 to 2": options(2, moved),
        "1 to 8": options(8, "1"),
        "spread": options(8, "spread", spread=True),
        "parts": options(4, "parts", rules=kernels),
        "parts to 1": options(1, "parts"),
        "parts to parts": options(2, "parts", rules=kernels, spread=True),
        "1 of 10": options(1, "1 of 10", batch_size=10),
        "8 of 10": options(8, "8 of 10", batch_size=10),
    }
    return dict(zip(plans, run(*plans.values()), strict=True))


def close(a, b):
    assert a["rows"] == b["rows"] and a["step"] == b["step"] == 150 and a["devices"] == 8
    for name, leaf in a["leaves"].items():
        np.testing.assert_allclose(leaf, b["leaves"][name], rtol=2e-3, atol=2e-4, err_msg=name)
    last = len(b["losses"])
    np.testing.assert_allclose(a["losses"][-last:], b["losses"], rtol=1e-4)
    np.testing.assert_allclose(a["metrics"][-len(b["metrics"]) :], b["metrics"], atol=0.03)


@pytest.mark.parametrize("count", ["2", "4", "8"])
def test_devices_change_nothing_but_rounding_and_share_the_batch(runs, count):
    assert runs["1"]["shards"] == 1 and runs[count]["shards"] == int(count)
    assert runs[count]["forward"] == [8, 16] and set(runs[count]["parts"].values()) == {1}
    close(runs["1"], runs[count])


@pytest.mark.parametrize("name", ["8 to 2", "1 to 8", "parts to 1", "parts to parts"])
def test_checkpoints_move_between_devices(runs, name):
    assert runs[name]["restored"] and not runs["parts"]["restored"]
    close(runs["1"], runs[name])


def test_a_batch_that_devices_do_not_divide_is_filled_up_for_the_forward_pass_alone(runs):
    assert (runs["8 of 10"]["shards"], runs["8 of 10"]["forward"]) == (8, [16, 24])
    close(runs["1 of 10"], runs["8 of 10"])
    assert runs["1 of 10"]["forward"] == [10, 20] and runs["1 of 10"]["leaves"] != runs["1"]["leaves"]


def test_rows_of_the_source_are_spread_when_asked(runs):
    close(runs["1"], runs["spread"])
    assert runs["spread"]["source"] == [-(-rows // 8) for rows in runs["1"]["source"]]


def test_rules_spread_kernels_with_their_moments(runs):
    close(runs["1"], runs["parts"])
    for name, parts in runs["parts"]["parts"].items():
        assert parts == (4 if "kernel" in name else 1), name
    assert sum("kernel" in name and "mu" in name for name in runs["parts"]["parts"]) == 3


def learner(**options):
    return core.make_learner(
        testing.standard_model(), core.identity(), optax.sgd(0.1), testing.standard_stream(), **options
    )


def test_what_cannot_be_spread_is_one_sentence():
    kernels = [("kernel", jax.sharding.PartitionSpec("data"))]
    with pytest.raises(ValueError, match="rules spread leaves over the devices of a mesh, got rules without one"):
        learner(rules=kernels)
    with pytest.raises(ValueError, match="spreads rows over the devices of a mesh, got spread=True without one"):
        core.to_device(testing.standard_stream(), spread=True)
    mesh = jax.sharding.AbstractMesh((5,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with pytest.raises(ValueError, match=r"The rule .* spreads params.Dense_0.kernel of shape \(12, 16\) over 5 devi"):
        jax.eval_shape(learner(mesh=mesh, rules=kernels).init, jax.random.key(0))
    odd = learner(mesh=mesh, batch_size=8)
    data = core.to_device(odd.stream)
    with pytest.raises(ValueError, match="keeps statistics of a batch, and 8 rows do not spread over 5 devices"):
        jax.eval_shape(odd.step, jax.eval_shape(odd.init, jax.random.key(0)), data, 0, 0)

"""ElasWave: splits of a batch against a loop over its samples; eight devices, three of which go and come back."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import fault
from ctrain_jax.fault._elaswave import Elaswave, ElaswaveState
from tests.quick import on_devices
from tests.shown import blocks, run

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
# Small enough for a loss and gradients of size 1, whose last digits 1e-6 are.
PARAMS = [jnp.asarray(0.3 * RNG.normal(size=shape), jnp.float32) for shape in ((5, 8), (8, 8), (8,))]
BATCH = {
    "x": jnp.asarray(RNG.normal(size=(16, 5)), jnp.float32),
    "y": jnp.asarray(RNG.normal(size=16), jnp.float32),
    "place": jnp.arange(16),  # of the noise, for the variant that is keyed by the rank
}


def one_loss(params, row, keys):
    """Of a sample: two layers, each with dropout of a half."""
    h = jnp.tanh(row["x"] @ params[0])
    h = 2 * h * jax.random.bernoulli(keys[0], 0.5, h.shape)
    h = jnp.tanh(h @ params[1])
    h = 2 * h * jax.random.bernoulli(keys[1], 0.5, h.shape)
    return (h @ params[2] - row["y"]) ** 2


def by_sample(params, rows, keys):
    return jax.vmap(lambda row, *keys: one_loss(params, row, keys))(rows, keys(0), keys(1)).sum()


def by_place(params, rows, keys):
    """What a generator of each rank does: the noise of a sample depends on where it is computed."""
    noise = [jax.vmap(lambda place, k=k: jax.random.fold_in(jax.random.key(k), place))(rows["place"]) for k in (0, 1)]
    return by_sample(params, rows, lambda layer: noise[layer])


def gradient(loss_sum, sizes, batch=BATCH, micro_batch=1, workers=2):
    """Loss and gradient of the fourth step, from a step of SGD of rate 1."""
    elastic = fault.elaswave(loss_sum, optax.sgd(1.0), 16, workers=workers, micro_batch=micro_batch)
    state = elastic.init(jax.random.key(7), PARAMS)._replace(step=jnp.int32(3))
    new, loss = jax.jit(elastic.step)(state, batch, jnp.array(sizes))
    assert int(new.step) == 4
    return float(loss), [np.asarray(p - q) for p, q in zip(PARAMS, new.params, strict=True)]


def close(a, b, most):
    return max(float(np.max(np.abs(x - y))) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)) < most


def test_any_split_is_a_loop_over_the_samples():
    each = jax.jit(jax.value_and_grad(one_loss))
    values = []
    for i in range(16):
        # (seed, step, layer, sample), written out.
        layers = [jax.random.fold_in(jax.random.fold_in(jax.random.key(7), 3), k) for k in (0, 1)]
        keys = [jax.random.fold_in(layer, i) for layer in layers]
        values.append(each(PARAMS, {k: v[i] for k, v in BATCH.items()}, keys))
    expected = jax.tree.map(lambda *x: np.mean(np.float64(x), axis=0), *values)
    for sizes in ((8, 8), (12, 4), (16, 0), (0, 16)):
        assert close(gradient(by_sample, sizes), expected, 1e-6), sizes
    assert close(gradient(by_sample, (1, 3), micro_batch=4), expected, 1e-6)


def test_noise_of_the_rank_depends_on_the_split():
    def at(sizes):
        places = np.concatenate([1000 * rank + np.arange(size) for rank, size in enumerate(sizes)])
        return gradient(by_place, sizes, BATCH | {"place": jnp.asarray(places)})

    assert not close(at((8, 8)), at((12, 4)), 1e-2)


def test_rows_of_a_micro_batch_may_see_each_other():
    def centred(params, rows, keys):
        h = rows["x"] @ params[0]
        return jnp.sum(((h - h.mean(0)) @ params[2] - rows["y"]) ** 2)

    parts = jax.tree.map(lambda x: x.reshape(4, 4, *x.shape[1:]), BATCH)

    def whole(params):
        return sum(centred(params, jax.tree.map(lambda x, b=b: x[b], parts), None) for b in range(4)) / 16

    expected = jax.jit(jax.value_and_grad(whole))(PARAMS)
    for sizes in ((2, 2), (4, 0), (1, 3)):
        assert close(gradient(centred, sizes, micro_batch=4), expected, 1e-6), sizes


def test_a_schedule_deals_evenly_to_who_is_alive():
    told = Elaswave(None, lambda state, batch, sizes: (state._replace(step=state.step + 1), (batch, sizes)), 4, 10)
    alive = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [1, 0, 1, 1], [0, 0, 0, 1]], bool)
    state, (steps, sizes) = fault.simulate(told, ElaswaveState(jnp.int32(5), (), (), ()), lambda step: step, alive)
    assert sizes.tolist() == [[3, 3, 2, 2], [0, 5, 0, 5], [4, 0, 3, 3], [0, 0, 0, 10]]
    assert steps.tolist() == [5, 6, 7, 8] and int(state.step) == 9


def test_keys_differ_by_step_sample_and_layer():
    ids = jnp.arange(3)
    keys = [fault.sample_key(jax.random.key(0), step, ids, layer) for step in (0, 1) for layer in (0, 1)]
    data = np.concatenate([jax.random.key_data(k) for k in keys])
    assert len({tuple(row) for row in data.tolist()}) == 12
    column = fault.sample_key(jax.random.key(0), 0, ids.reshape(3, 1), 1)
    assert column.shape == (3, 1) and bool(jnp.all(column[:, 0] == keys[1]))


def test_wrong_use_is_told():
    make = fault.elaswave
    tx = optax.sgd(1.0)
    with pytest.raises(ValueError, match="multiple of micro_batch=3, got 16"):
        make(by_sample, tx, 16, workers=2, micro_batch=3)
    other = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    for workers in (other, 2.0):
        with pytest.raises(ValueError, match="a number, or a mesh with an axis 'data', got"):
            make(by_sample, tx, 16, workers=workers)
    elastic = make(by_sample, tx, 16, workers=2)
    state = elastic.init(jax.random.key(0), PARAMS)
    for sizes in ([8, 7], [17, -1], [8.0, 8.0]):
        with pytest.raises(ValueError, match="add up to 16 micro-batches, got"):
            elastic.step(state, BATCH, np.array(sizes))
    with pytest.raises(ValueError, match="expects shape \\(2,\\), got \\(3,\\)"):
        elastic.step(state, BATCH, jnp.array([8, 8, 0]))
    with pytest.raises(ValueError, match="global_batch=16 rows, got \\[\\(8,\\)\\]"):
        elastic.step(state, jax.tree.map(lambda x: x[:8], BATCH), jnp.array([8, 8]))
    with pytest.raises(ValueError, match="at least one worker in each step, got none in step 1"):
        fault.simulate(elastic, state, lambda step: BATCH, [[True, False], [False, False]])
    with pytest.raises(ValueError, match="num_workers=2\\], got shape \\(1, 3\\)"):
        fault.simulate(elastic, state, lambda step: BATCH, [[True, True, True]])
    with pytest.raises(TypeError, match="layer expects integers, got float32"):
        fault.sample_key(jax.random.key(0), 0, 0, 1.0)


def test_the_code_of_the_readme_runs(capsys):
    assert run(blocks("ctrain_jax/fault/README.md")[0], capsys)[1] == "True\n"


PROGRAM = """
import json
import jax, jax.numpy as jnp, numpy as np, optax
from ctrain_jax import fault
from tests.fault.elaswave_test import PARAMS, by_place, by_sample
mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
draw = np.random.default_rng(1)
xs = jnp.asarray(draw.normal(size=(60, 16, 5)), jnp.float32)
ys = jnp.sin(xs @ draw.normal(size=5))
traces = []

def run(loss_sum, alive, workers=mesh):
    # A step's number and place of its noise: rank by rank, as the micro-batches are dealt.
    counts = [[16 // sum(row) + (sum(row[:w]) < 16 % sum(row)) if row[w] else 0 for w in range(8)] for row in alive]
    places = jnp.asarray([[10000 * i + 100 * w + k for w in range(8) for k in range(row[w])]
                          for i, row in enumerate(counts)])
    elastic = fault.elaswave(lambda *given: (traces.append(1), loss_sum(*given))[1], optax.adam(1e-2), 16,
                             workers=workers)
    loop = jax.jit(lambda state, alive: fault.simulate(
        elastic, state, lambda step: {"x": xs[step], "y": ys[step], "place": places[step]}, alive))
    traces.clear()
    state, losses = loop(elastic.init(jax.random.key(0), PARAMS), jnp.asarray(alive))
    return np.asarray(losses).tolist(), np.asarray(state.params[0]).tolist(), len(traces)

whole = [[True] * 8] * 60
lost = [[w not in (1, 4, 6) or not 20 <= i < 40 for w in range(8)] for i in range(60)]
# The gradient of a worker's own parameter is its share: who computes what is seen in it.
share = fault.elaswave(lambda p, rows, keys: p[jax.lax.axis_index("data")] * rows.sum(), optax.sgd(1.0), 16,
                       workers=mesh)
sizes = jnp.array([0, 1, 2, 3, 4, 5, 0, 1])
new, _ = jax.jit(share.step)(share.init(jax.random.key(0), jnp.zeros(8)), jnp.ones(16), sizes)
print(json.dumps({"whole": run(by_sample, whole), "lost": run(by_sample, lost), "one": run(by_sample, lost, 8),
                  "rank": [run(by_place, whole)[0], run(by_place, lost)[0]],
                  "share": (-16 * new.params).tolist(), "devices": jax.device_count()}))
"""


@pytest.fixture(scope="module")
def eight():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=on_devices(8), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_three_of_eight_devices_go_and_come_back(eight):
    (whole, end, traces), (lost, other, _), (alone, _, _) = (eight[name] for name in ("whole", "lost", "one"))
    assert eight["devices"] == 8 and len(whole) == 60 and np.mean(whole[40:]) < np.mean(whole[:20])
    np.testing.assert_allclose(lost, whole, rtol=0, atol=1e-5)
    np.testing.assert_allclose(other, end, rtol=0, atol=1e-4)
    np.testing.assert_allclose(alone, lost, rtol=0, atol=1e-5)
    assert traces == eight["lost"][2] <= 2, "sizes are arrays: no split is traced anew"


def test_keyed_by_rank_the_losses_part_where_the_workers_go(eight):
    whole, lost = map(np.array, eight["rank"])
    np.testing.assert_allclose(lost[:20], whole[:20], rtol=0, atol=1e-5)
    assert np.abs(lost - whole)[20:40].max() > 1e-2


def test_every_device_computes_its_own_share(eight):
    assert eight["share"] == [0, 1, 2, 3, 4, 5, 0, 1]

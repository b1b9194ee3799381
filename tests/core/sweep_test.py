"""A sweep is its single runs: over values and seeds, in parts, over devices."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, testing
from ctrain_jax.core import _sweep
from tests.quick import on_devices
from tests.short import short_learner

ROOT = Path(__file__).parents[2]
LAMS, RATES, SEEDS = (0.0, 50.0), (3e-3, 1e-2, 3e-2), (4, 1)


def run(data, rng, lam=1.0, rate=1e-2):
    learner = short_learner(continual.ewc(lam, online=True), optimizer=optax.adamw(rate), steps=4)
    result = core.run_fused(learner, data, rng)
    return {"accuracy": result.accuracy, "bias": result.state.params["head"]["bias"]}


@functools.cache
def data():
    return core.to_device(testing.standard_stream())


@functools.cache
def swept():
    return core.sweep(run, data(), seeds=SEEDS, lam=LAMS, rate=RATES)


def test_each_part_is_the_single_run():
    assert list(swept().axes) == ["lam", "rate", "seed"]
    assert swept().axes == {"lam": LAMS, "rate": RATES, "seed": SEEDS}
    assert swept().result["accuracy"].shape == (2, 3, 2, 3, 3)
    alone = jax.jit(run)
    for lam, rate, seed in ((0.0, 3e-2, 1), (50.0, 3e-3, 4), (50.0, 3e-2, 1)):
        one = alone(data(), jax.random.key(seed), lam, rate)
        part = swept().at(seed=seed, lam=lam, rate=rate)
        assert part.axes == {}
        np.testing.assert_allclose(part.result["bias"], one["bias"], rtol=1e-4, atol=1e-6)
    biases = np.asarray(swept().result["bias"]).reshape(12, -1)
    assert len(np.unique(biases.round(6), axis=0)) == 12


def test_a_part_keeps_the_other_axes():
    part = swept().at(rate=1e-2)
    assert part.axes == {"lam": LAMS, "seed": SEEDS}
    np.testing.assert_array_equal(part.result["bias"], swept().result["bias"][:, 1])
    with pytest.raises(ValueError, match="has the axes lam, rate, seed, got 'size'"):
        swept().at(size=3)
    with pytest.raises(ValueError, match=r"has lam at 0.0, 50.0, got 7"):
        swept().at(lam=7)


def test_what_does_not_fit_comes_in_parts(monkeypatch):
    """As on an accelerator, whose memory takes fewer runs at once than there are."""
    sizes = []

    def program(one, at_once, mesh, made=_sweep._program):
        sizes.append(at_once)
        return made(one, at_once, mesh)

    monkeypatch.setattr(_sweep, "_program", program)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(_sweep, "_needed_bytes", lambda compiled: 100 * sizes[-1])
    monkeypatch.setattr(_sweep, "_free_bytes", lambda: 250)
    found = core.sweep(run, data(), seeds=SEEDS, lam=LAMS, rate=RATES)
    assert sizes == [12, 2]
    np.testing.assert_allclose(found.result["bias"], swept().result["bias"], rtol=1e-4, atol=1e-5)


def test_memory_that_is_needed_is_what_a_program_says():
    compiled = jax.jit(lambda x: (x @ x).sum(0)).lower(np.ones((64, 64), np.float32)).compile()
    assert 64 * 4 <= _sweep._needed_bytes(compiled) <= 64 * 64 * 4 + 64 * 4 + 1024
    assert _sweep._free_bytes() is None  # a CPU does not say


PROGRAM = """
import json
import jax, numpy as np
from ctrain_jax import core
from tests.core.sweep_test import LAMS, RATES, SEEDS, data, run

mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
found = core.sweep(run, data(), seeds=SEEDS, lam=LAMS, rate=RATES, mesh=mesh)
print(json.dumps(np.asarray(found.result["bias"]).tolist()))
"""


def test_over_devices_it_is_the_same():
    """12 runs on 8 devices: four of them do one twice."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=on_devices(8), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(found, swept().result["bias"], rtol=1e-4, atol=1e-5)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="axis lam of a sweep expects at least one value"):
        core.sweep(run, data(), lam=[])
    with pytest.raises(ValueError, match="axis seed of a sweep expects at least one value"):
        core.sweep(run, data(), seeds=[], lam=[1.0])
    with pytest.raises(ValueError, match="cannot be called 'rng': seeds are given as seeds=range"):
        core.sweep(run, data(), rng=[1.0])
    with pytest.raises(ValueError, match="maps over numbers, got lam='big'"):
        core.sweep(run, data(), lam=["big"])

    def shaped(data, rng, size):
        return jax.numpy.zeros(size)

    with pytest.raises(ValueError, match="decides a shape or a branch of the program"):
        core.sweep(shaped, data(), size=[1, 2])
    with pytest.raises(ValueError, match="decides a shape or a branch of the program"):
        core.sweep(lambda data, rng, lam: rng if lam > 0 else 2 * rng, data(), lam=[1.0])

"""What a run says of its cost, and the trace that --profile writes."""

import gzip
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.continual import er
from ctrain_jax import core, models, streams
from experiments import _cost, _progress, continual


def test_flops_are_those_of_the_matrix_products():
    """3 layers, forward and backward, but no gradient of the inputs; Adam and the rest is small beside them."""
    stream = streams.class_incremental(streams.digits(), 5)
    model = core.from_linen(models.MLP(10, hidden=(256, 256)))
    learner = core.make_learner(model, core.identity(), optax.sgd(0.1), stream, batch_size=128)
    products = 2 * 128 * (64 * 256 * 2 + 256 * 256 * 3 + 256 * 10 * 3)
    data = core.to_device(stream)
    one, three = (_cost.step_flops(learner, data, core.start(learner, seed)) for seed in (0, range(3)))
    assert one == three and 1.0 <= one / products <= 1.05


def test_compile_seconds_count_what_is_compiled():
    function = jax.jit(lambda x: jnp.sin(x @ x) + 12345.0)
    _cost.compile_seconds()
    before = _cost.compile_seconds()
    function(np.ones((8, 8), np.float32))
    once = _cost.compile_seconds()
    function(np.ones((8, 8), np.float32))
    assert once > before and _cost.compile_seconds() == once


def test_the_peak_is_of_the_device_where_it_says_so(monkeypatch):
    assert 5e7 < _cost.peak_bytes() < 1e12
    device = types.SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": 7})
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert _cost.peak_bytes() == 7


def test_a_profiled_run_is_the_same_run_with_a_trace(tmp_path, monkeypatch):
    config = er.get_config("runlocal")
    config.scenario.num_experiences = 2
    config.model.hidden, config.steps = (8,), 12
    monkeypatch.setattr(_progress.Pace, "steps", lambda self: 3)
    plain, profiled = (continual.train(config, tmp_path / n, quiet=True, profile=n == "b") for n in ("a", "b"))
    assert plain["matrices"] == profiled["matrices"]
    assert not (tmp_path / "a" / "profile").exists()
    (trace,) = (tmp_path / "b" / "profile").rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert any("chunk" in event.get("name", "") for event in events)
    for result in (plain, profiled):
        assert result["compile_seconds"] > 0 and result["flops_per_step"] > 1e4
        assert result["examples_per_second"] == pytest.approx(32 * result["steps_per_second"])

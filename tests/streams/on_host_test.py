"""Rows that stay on the host: the same run, by the rows that were asked for and no others."""

import json
import socket
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, models, streams
from experiments import data
from tests.quick import on_devices

KEYS = jax.dtypes.prng_key


class Watched:
    """Rows that count how often each is read, and how many at once."""

    def __init__(self, rows):
        self.rows, self.shape, self.dtype = rows, rows.shape, rows.dtype
        self.asked, self.together = np.zeros(len(rows), int), []

    def __getitem__(self, index):
        np.add.at(self.asked, index, 1)
        self.together.append(np.size(index))
        return self.rows[index]


REPLAY = core.chain(continual.er(20), continual.ewc(1.0, online=True, fisher="empirical"))


def learner(source, method=REPLAY, **options):
    stream = streams.rotated(source, 2)
    model = core.from_linen(models.MLP(10, hidden=(4,)))
    return core.make_learner(model, method, optax.adam(1e-2), stream, batch_size=8, steps=3, **options)


def small(count=40):
    source = streams.digits()
    train, test = ({k: x[:count] for k, x in part.items()} for part in (source.train, source.test))
    return source._replace(train=train, test=test)


def watched(source):
    """The source on the host, and its training rows, which count."""
    rows = Watched(source.train["inputs"])
    return streams.on_host(source._replace(train={**source.train, "inputs": rows})), rows


def leaves(tree):
    return [
        np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, KEYS) else x) for x in jax.tree.leaves(tree)
    ]


@pytest.fixture(scope="module")
def run():
    """Of two seeds, from the host."""
    return core.run_stream(learner(streams.on_host(small())), [0, 1])


def test_a_run_is_the_same_to_the_bit(run):
    for a, b in zip(leaves(core.run_stream(learner(small()), [0, 1])), leaves(run), strict=True):
        np.testing.assert_array_equal(a, b)


def test_seeds_side_by_side_are_those_one_after_the_other(run):
    """As on accelerators: `run_stream` maps seeds by `vmap` there, and one after the other here."""
    source, rows = watched(small())
    plain = learner(source)
    data, keys = core.to_device(plain.stream), jax.vmap(jax.random.key)(np.arange(2))
    found = jax.jit(jax.vmap(lambda key: core.run_fused(plain, data, key)))(keys)
    # One question for both seeds; 8 rows are what ewc goes over, which are the same for both: 5 batches, twice.
    assert set(rows.together) == {8, 2 * 8} and rows.together.count(8) == 2 * 5
    for a, b in zip(leaves(run), leaves(found), strict=True):
        if a.dtype.kind == "f":
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(b, a)


def test_a_step_asks_for_the_rows_of_its_batch_alone():
    source, rows = watched(small())
    plain = learner(source)
    data, state = core.to_device(plain.stream), core.start(plain, 0)
    assert rows.asked.sum() == 0 and set(data.source["train"]) == {"labels"}
    state, _ = jax.block_until_ready(jax.jit(plain.step)(state, data, 0, 0))
    # 8 that arrive, and 8 of the memory, which holds none yet: copies of those that arrive.
    assert rows.asked.sum() == 16 and (rows.asked > 0).sum() == 8


def test_a_row_that_cannot_be_read_is_told():
    class Broken(Watched):
        def __getitem__(self, index):
            raise OSError("the disk is gone")

    source = small()
    plain = learner(streams.on_host(source._replace(train={**source.train, "inputs": Broken(source.train["inputs"])})))
    with pytest.raises(Exception, match="the disk is gone"):
        jax.block_until_ready(jax.jit(plain.step)(core.start(plain, 0), core.to_device(plain.stream), 0, 0))


def test_a_data_set_on_the_disk_is_that_in_memory(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (13, 6, 9, 3), np.uint8)
    labels = np.arange(13) % 4
    data.write_builder(
        "shapes", {"train": (images[:9], labels[:9]), "test": (images[9:], labels[9:])}, tmp_path, version="1.0.0"
    )
    for options in ({}, {"size": 6, "pad": 1}):
        here, there = (streams.tfds("shapes", tmp_path, resident=resident, **options) for resident in (True, False))
        for part in ("train", "test"):
            a, b = getattr(here, part), getattr(there, part)
            assert a["inputs"].shape == b["inputs"].shape and not isinstance(b["inputs"], np.ndarray)
            np.testing.assert_array_equal(a["inputs"][[2, 0, 2]], b["inputs"][np.array([2, 0, 2])], strict=True)
            np.testing.assert_array_equal(a["labels"], b["labels"])
    np.testing.assert_array_equal(here.train["inputs"][:, 1:-1, 1:-1], images[:9, :, 1:7])
    with pytest.raises(ValueError, match="size must be"):
        streams.tfds("shapes", tmp_path, size=0)


def test_only_sources_stay():
    with pytest.raises(TypeError, match="on_host: source must be a Source, got int"):
        streams.on_host(3)


ON_DEVICES = """
import json
import jax, numpy as np
from ctrain_jax import core, streams
from tests.streams.on_host_test import learner, leaves, small
jax.config.update("jax_disable_most_optimizations", True)
found = []
for source in (small(), streams.on_host(small())):
    plain = learner(source, core.identity(), mesh=core.data_mesh())
    state, data = core.start(plain, 0), core.to_device(plain.stream, plain.mesh)
    state, _ = jax.jit(plain.chunk)(state, data, 1, 0, 3)
    found.append([*leaves(state.params), *leaves(core.evaluate(plain, state, data, 1))])
same = all(np.array_equal(a, b) for a, b in zip(*found, strict=True))
print(json.dumps({"devices": jax.device_count(), "same": same}))
"""


def test_of_several_devices_each_asks_for_its_part():
    done = subprocess.run([sys.executable, "-c", ON_DEVICES], env=on_devices(3), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"devices": 3, "same": True}


IN_PROCESSES = """
import json, sys
import jax, numpy as np
jax.config.update("jax_disable_most_optimizations", True)
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from ctrain_jax import core
from tests.streams.on_host_test import learner, leaves, small, watched
resident = small()
on_host, rows = watched(resident)
plain, other = (learner(source, core.identity(), mesh=core.data_mesh()) for source in (resident, on_host))
start, found = core.start(plain, 0), []
for each in (plain, other):
    state, _ = jax.jit(each.chunk)(start, core.to_device(each.stream, each.mesh), 1, 0, 3)
    found.append([x.tolist() for x in leaves(state)])
print(json.dumps({"processes": jax.process_count(), "found": found, "together": rows.together}))
"""


def test_of_two_processes_each_reads_its_part():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        where = f"localhost:{free.getsockname()[1]}"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([sys.executable, "-c", IN_PROCESSES, where, str(k)], **pipes) for k in range(2)]
    ended = [process.communicate(timeout=120) for process in started]
    for process, (out, err) in zip(started, ended, strict=True):
        assert process.returncode == 0, err[-2000:]
        told = json.loads(out.splitlines()[-1])
        assert told["processes"] == 2 and set(told["together"]) == {8 // 2}
        for resident, host in zip(*told["found"], strict=True):
            np.testing.assert_allclose(host, resident, rtol=1e-5, atol=1e-7)

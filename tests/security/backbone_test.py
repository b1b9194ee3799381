"""Files of weights: what was changed is refused in a sentence before anything is made of it."""

import json
import os
import struct
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrain_jax import core, models, streams
from ctrain_jax.core import _deploy
from tests.security.wild import EXAMPLES, TEXTS, changed, executed, is_sentence, trees, watched
from tests.short import short_learner

BACKBONE = core.Variables(
    {"dense": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3, jnp.bfloat16)}, "count": jnp.int32(5)},
    {"norm": {"mean": jnp.zeros(2)}},
)
GIVEN = {"format": "ctrain_jax 1", "empty": "{}"}
SIZES = st.integers(-1, 9) | st.sampled_from([10**9, 2**31, 2**62, 2**64, 10**30])
TENSORS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64", "BF16", "I8", "BOOL", "F8_E4M3", "C64", "F4", "X", 5]),
        "shape": st.lists(SIZES, max_size=3) | trees(),
        "data_offsets": st.lists(SIZES, min_size=2, max_size=2) | trees(),
    }
)
NAMES = st.sampled_from(["params/a", "params", "params/a/b", "other/a", "../../x", "/etc/passwd", ""]) | TEXTS


def bits(tree):
    return [(np.asarray(x).dtype, np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)], jax.tree.structure(tree)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file of tensors, and a program."""
    folder = tmp_path_factory.mktemp("backbone")
    core.save_tensors(folder / "tensors", BACKBONE)
    raw, labels = np.zeros((12, 2), np.float32), np.arange(12) % 2
    stream = streams.class_incremental(streams.arrays(raw, labels, raw, labels), 2)
    learner = short_learner(core.identity(), stream=stream, steps=1, model=core.from_linen(models.MLP(2, hidden=())))
    core.export_program(folder / "program", learner, core.start(learner))
    return folder


def refused(read, path):
    """What a reader says of a file, a sentence; None where it reads it."""
    try:
        found = read(path)
    except ValueError as error:
        assert is_sentence(error) and str(path) in str(error)
        return str(error)
    assert read is core.load_tensors and bits(found) == bits(BACKBONE)
    return None


@given(data=st.data())
@settings(EXAMPLES, max_examples=80)
def test_changed_tensors_are_refused_or_the_same(folder, data):
    good = (folder / "tensors").read_bytes()
    (folder / "other").write_bytes(data.draw(changed(good)))
    sentence = refused(core.load_tensors, folder / "other")
    assert sentence is None or "write it again" in sentence or "was not written by save_tensors" in sentence


def test_any_flipped_bit_of_a_tensor_is_found(folder):
    good = (folder / "tensors").read_bytes()
    (header,) = struct.unpack("<Q", good[:8])
    for place in range(8 + header, len(good)):
        (folder / "other").write_bytes(good[:place] + bytes([good[place] ^ 16]) + good[place + 1 :])
        assert "do not match their checksum" in refused(core.load_tensors, folder / "other")


@given(header=st.dictionaries(NAMES, TENSORS, max_size=3), told=trees(), size=SIZES, whole=st.booleans())
@settings(EXAMPLES, max_examples=80)
def test_a_header_is_not_believed(folder, header, told, size, whole):
    """Nor is what it claims allocated."""
    text = json.dumps(header | {"__metadata__": GIVEN if whole else told}).encode()
    length = len(text) if whole else size % 2**64
    (folder / "other").write_bytes(struct.pack("<Q", length) + text + bytes(64))
    tracemalloc.start()
    try:
        assert refused(core.load_tensors, folder / "other") is not None
        assert tracemalloc.get_traced_memory()[1] < 1e7
    finally:
        tracemalloc.stop()


@given(names=st.lists(NAMES, min_size=1, max_size=3, unique=True), empty=trees() | st.text(max_size=5))
@settings(EXAMPLES, max_examples=100)
def test_tensors_of_another_hand_are_variables_or_refused(folder, names, empty):
    """With a checksum that is right: whoever writes the file can make it so."""
    from safetensors.numpy import save_file

    names = [name.encode("utf-8", "replace").decode() for name in names]
    told = (empty if isinstance(empty, str) else json.dumps(empty)).encode("utf-8", "replace").decode()
    tensors = {name: np.zeros(2, np.float32) for name in names}
    metadata = {"format": "ctrain_jax 1", "empty": told, "sha256": _deploy._digest(tensors, told)}
    save_file(tensors, folder / "other", metadata=metadata)
    try:
        assert isinstance(core.load_tensors(folder / "other"), core.Variables)
    except ValueError as error:
        assert is_sentence(error)


def test_names_without_end_are_refused(folder):
    from safetensors.numpy import save_file

    tensors = {"params/" + "a/" * 50_000 + "b": np.zeros(2, np.float32)}
    save_file(tensors, folder / "other", metadata=GIVEN | {"sha256": _deploy._digest(tensors, "{}")})
    assert "holds no Variables" in refused(core.load_tensors, folder / "other")


@given(data=st.data())
@settings(EXAMPLES, max_examples=80)
def test_a_changed_program_is_refused_before_jax_sees_a_byte_of_it(folder, data):
    """One flipped bit can make the reader of StableHLO read for ever."""
    good = (folder / "program").read_bytes()
    (folder / "other").write_bytes(data.draw(changed(good).filter(lambda content: content != good)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.export, "deserialize", lambda content: pytest.fail("jax saw it"))
        assert "or a damaged one: export it again" in refused(core.load_program, folder / "other")


@pytest.mark.parametrize("read", [core.load_tensors, core.load_program])
def test_only_a_file_is_opened(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")  # whoever opens it waits for ever
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none", "/dev/zero"):
        with pytest.raises(FileNotFoundError, match="is no file: give the path of one that was written"):
            read(path)


def test_nothing_that_is_loaded_is_executed(folder):
    for _ in range(2):  # what is imported when it is first needed is there the second time
        with watched() as seen:
            core.load_tensors(folder / "tensors")
            core.load_program(folder / "program")
    assert executed(seen) == [] and ("open", str(folder / "program")) in seen

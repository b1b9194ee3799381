"""Several image data sets as one stream: shapes, colours, labels, parts, and what each row is told apart from."""

import numpy as np
import pytest

from ctrain_jax import core, streams
from ctrain_jax.core._data import at, fetch_rows

RNG = np.random.default_rng(0)


def images(num, shape, num_classes, name):
    inputs = RNG.integers(0, 256, (2 * num, *shape), dtype=np.uint8)
    labels = np.arange(2 * num) % num_classes
    return streams.arrays(inputs[:num], labels[:num], inputs[num:], labels[num:], name=name)


TASKS = [images(20, (4, 4), 2, "grey"), images(60, (6, 8, 3), 3, "rgb"), images(16, (5, 3, 1), 4, "one")]


def test_rows_labels_and_classes_of_each_task_are_its_own():
    stream = streams.nevis(TASKS, fit="pad", valid_fraction=0.25, seed=1)
    assert stream.source.train["inputs"].shape == (96, 6, 8, 3) and stream.source.num_classes == 9
    assert (stream.heads, stream.task_known, stream.boundaries, stream.name) == ("task", True, True, "nevis")
    train, valid, test = (stream.experiences[name] for name in ("train", "valid", "test"))
    assert test.size.tolist() == [20, 60, 16] and stream.origins.task.tolist() == [0, 1, 2]
    offsets, starts = [0, 2, 5], [0, 20, 80]
    for t, task in enumerate(TASKS):
        owned = [e.rows[t][: e.size[t]] for e in (train, valid)]
        assert sorted(np.concatenate(owned)) == list(range(starts[t], starts[t] + len(task.train["labels"])))
        wanted = np.isin(np.arange(9), offsets[t] + np.arange(task.num_classes))
        np.testing.assert_array_equal(stream.origins.classes[t], wanted)
        for split, e in (("train", train), ("test", test)):
            rows = e.rows[t][: e.size[t]]
            given = getattr(task, split)["labels"][rows - starts[t]]
            np.testing.assert_array_equal(getattr(stream.source, split)["labels"][rows], given + offsets[t])
        # A quarter of the rows of each class, to within rounding.
        held = np.bincount(stream.source.train["labels"][owned[1]], minlength=9)[wanted]
        whole = np.bincount(task.train["labels"])
        assert (np.abs(held - whole / 4) <= 0.5).all()


def test_padding_puts_an_image_into_the_middle_of_zeros():
    inputs = streams.nevis(TASKS, fit="pad", valid_fraction=0).source.train["inputs"]
    for rows, (top, left), task in ((slice(20), (1, 2), 0), (slice(80, 96), (0, 2), 2)):
        given = TASKS[task].train["inputs"]
        given = given[..., 0] if given.ndim == 4 else given
        height, width = given.shape[1:]
        for channel in range(3):
            np.testing.assert_array_equal(inputs[rows, top : top + height, left : left + width, channel], given)
        assert inputs[rows].sum(dtype=int) == 3 * given.sum(dtype=int)
    np.testing.assert_array_equal(inputs[20:80], TASKS[1].train["inputs"])


def test_resizing_keeps_flat_images_flat_and_colours_by_their_luma():
    flat = np.broadcast_to(np.array([200, 100, 50], np.uint8), (4, 6, 6, 3))
    grey = np.full((4, 3, 3), 77, np.uint8)
    tasks = [streams.arrays(x, [0, 1, 0, 1], x, [0, 1, 0, 1]) for x in (flat, grey)]
    inputs = streams.nevis(tasks, shape=(4, 5, 3), valid_fraction=0).source.train["inputs"]
    assert inputs.shape == (8, 4, 5, 3)
    assert (inputs[:4] == [200, 100, 50]).all() and (inputs[4:] == 77).all()
    inputs = streams.nevis(tasks, shape=(2, 2, 1), valid_fraction=0).source.test["inputs"]
    # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2.
    assert inputs.shape == (8, 2, 2) and (inputs[:4] == 124).all() and (inputs[4:] == 77).all()
    # A ramp of 2 columns, drawn out to 4: bilinear between the centres of pixels.
    ramp = np.tile(np.array([0, 100], np.uint8), (2, 2, 1))
    drawn = streams.nevis([streams.arrays(ramp, [0, 1], ramp, [0, 1])], shape=(2, 4, 1), valid_fraction=0)
    assert drawn.source.train["inputs"][0, 0].tolist() == [0, 25, 75, 100]


def test_the_parts_share_source_and_head_and_count_their_own_experiences():
    whole = streams.nevis(TASKS, valid_fraction=0.25)
    parts = {
        p: streams.nevis(TASKS, part=p, num_meta_train=2, valid_fraction=0.25) for p in ("meta_train", "meta_test")
    }
    for (name, stream), chosen in zip(parts.items(), (slice(0, 2), slice(2, 3)), strict=True):
        assert stream.name == f"nevis_{name}"
        np.testing.assert_array_equal(stream.source.train["inputs"], whole.source.train["inputs"])
        np.testing.assert_array_equal(stream.origins.classes, whole.origins.classes[chosen])
        for split in ("train", "valid", "test"):
            found, expected = stream.experiences[split], whole.experiences[split]
            np.testing.assert_array_equal(found.size, expected.size[chosen])
            assert found.index.tolist() == list(range(len(found.size)))
            for own, all_ in zip(found.rows, expected.rows[chosen], strict=True):
                assert set(own) == set(all_)


def test_a_batch_of_a_task_is_told_apart_by_its_classes_alone():
    stream = streams.nevis(TASKS, valid_fraction=0)
    data = core.to_device(stream)
    experience = at(data.experiences["train"], 1)
    record = {"row": experience.rows[:5], "experience": experience.origin[:5]}
    batch = fetch_rows(stream, data, experience, record, "train")
    assert batch["task"].tolist() == [1] * 5 and np.asarray(batch["classes"])[:, 2:5].all()
    assert np.asarray(batch["classes"]).sum(1).tolist() == [3] * 5
    assert float(batch["inputs"].max()) <= 1


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: streams.nevis([]), ValueError, "tasks must be at least one source"),
        (lambda: streams.nevis([1]), TypeError, "task 0 must be a Source, got int"),
        (lambda: streams.nevis([streams.on_host(TASKS[0])]), TypeError, "uint8 images in memory"),
        (lambda: streams.nevis([streams.sea(0)]), TypeError, "uint8 images in memory"),
        (lambda: streams.nevis([TASKS[0]._replace(mean=0.5)]), ValueError, "a mean or std of its own"),
        (lambda: streams.nevis([images(4, (4, 4, 2), 2, "two")]), ValueError, r"\[N, H, W, 1 or 3\]"),
        (lambda: streams.nevis(TASKS, shape=(4, 4)), ValueError, "shape must be height, width"),
        (lambda: streams.nevis(TASKS, shape=(4, 4, 3), fit="pad"), ValueError, "are larger than shape"),
        (lambda: streams.nevis(TASKS, fit="crop"), ValueError, "fit must be one of"),
        (lambda: streams.nevis(TASKS, part="test"), ValueError, "part must be one of"),
        (lambda: streams.nevis(TASKS, part="meta_train"), ValueError, "has no task with num_meta_train=0"),
        (lambda: streams.nevis(TASKS, part="meta_test", num_meta_train=3), ValueError, "has no task"),
        (lambda: streams.nevis(TASKS, num_meta_train=4), ValueError, "between 0 and 3"),
        (lambda: streams.nevis(TASKS, valid_fraction=1.0), ValueError, r"valid_fraction must lie in \[0, 1\)"),
    ],
)
def test_refuses_in_one_sentence(call, error, match):
    with pytest.raises(error, match=match):
        call()

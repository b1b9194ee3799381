"""The stream of a search holds no test row, and a source of some classes no other."""

import numpy as np
import pytest

from ctrain_jax import streams


def numbered(test_from=-1000):
    """A source whose every row says which it is: training rows from 0, test rows below."""
    labels = np.arange(100) % 5
    return streams.arrays(np.arange(100.0)[:, None], labels, np.arange(100.0)[:, None] + test_from, labels)


@pytest.mark.parametrize("scenario", [streams.class_incremental, streams.permuted, streams.scole])
def test_a_search_is_asked_for_validation_rows_and_cannot_see_another(scenario):
    source = numbered()
    if scenario is streams.permuted:
        source = streams.digits()
    stream = scenario(source, 4, valid_fraction=0.2)
    chosen_on = streams.selection(stream)
    valid, test = stream.experiences["valid"], chosen_on.experiences["test"]
    asked = chosen_on.source.test["inputs"][test.rows]
    np.testing.assert_array_equal(asked, stream.source.train["inputs"][valid.rows])
    np.testing.assert_array_equal(chosen_on.source.test["labels"][test.rows], source.train["labels"][valid.rows])
    for field in ("size", "classes", "seen", "task", "origin"):
        np.testing.assert_array_equal(getattr(test, field), getattr(valid, field))
    assert set(chosen_on.experiences) == {"train", "test"}
    assert len(chosen_on.source.test["labels"]) == np.unique(valid.rows).size
    if scenario is streams.class_incremental:
        learned = chosen_on.source.train["inputs"][chosen_on.experiences["train"].rows]
        assert not np.intersect1d(asked, learned).size and (chosen_on.source.test["inputs"] >= 0).all()


def test_a_stream_without_validation_rows_is_refused():
    with pytest.raises(ValueError, match="holds none out: set valid_fraction of its scenario"):
        streams.selection(streams.class_incremental(numbered(), 5))


def test_some_classes_are_numbered_in_the_order_given():
    some = streams.only_classes(numbered(), [3, 1])
    assert some.num_classes == 2 and some.name == "arrays[3,1]"
    for part in (some.train, some.test):
        old = part["inputs"][:, 0].astype(int) % 5
        assert set(old) == {1, 3} and len(old) == 40
        np.testing.assert_array_equal(part["labels"], np.where(old == 3, 0, 1))
    for classes in ([], [1, 1], [5], [-1]):
        with pytest.raises(ValueError, match="only_classes expects different classes of 0 to 4"):
            streams.only_classes(numbered(), classes)
    floats = streams.arrays(np.ones((4, 1)), np.ones(4), np.ones((4, 1)), np.ones(4))
    with pytest.raises(ValueError, match="integer labels"):
        streams.only_classes(floats, [0])

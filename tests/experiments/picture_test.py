"""What a picture of a stream shows is what a learner would see, and one line tells two streams apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrain_jax import core, streams
from ctrain_jax.core._data import at, fetch_rows
from experiments import _picture

DIGITS = streams.digits()


def grey(count, side=8):
    """A source of random images, each of another class in turn."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, side, side), np.uint8)
    return streams.arrays(images, np.arange(count) % 4, images[:8], np.arange(8) % 4, name="grey")


@pytest.mark.parametrize(
    "stream",
    [
        streams.permuted(grey(40), 3),
        streams.corrupted(grey(40), ["contrast", "brightness"], severity=2),
    ],
    ids=lambda stream: stream.name,
)
def test_examples_are_what_a_learner_sees(stream):
    which = range(len(stream.experiences["train"].size))
    shown, data = _picture.examples(stream, which), core.to_device(stream)

    @jax.jit
    def fetch(experience):
        record = {"row": experience.rows, "experience": experience.origin}
        return fetch_rows(stream, data, experience, record, "train")["inputs"]

    for t in which:
        experience = at(data.experiences["train"], jnp.int32(t))
        size = int(experience.size)
        seen = np.asarray(fetch(experience))[:size]
        assert len(shown[t].inputs) == min(10, size)
        # Each of them is a row of the experience, as the step fetches it.
        for image, label in zip(*shown[t], strict=True):
            near = np.abs(seen - image).reshape(size, -1).max(axis=1)
            rows = np.asarray(experience.rows)[:size][near < 1e-5]
            assert label in stream.source.train["labels"][rows]
        assert (np.diff(shown[t].labels) >= 0).all()


def test_many_experiences_are_chosen_evenly():
    assert _picture.chosen(15) == list(range(15))
    assert _picture.chosen(19) == list(range(0, 19, 2))
    assert _picture.chosen(300) == [0, 33, 66, 100, 133, 166, 199, 233, 266, 299]
    lines = _picture.table(streams.permuted(grey(8, side=2), 19)).split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in lines[1:]] == [*map(str, range(1, 20, 2)), "10"]
    assert lines[-1].startswith("10 of 19 experiences, evenly chosen")


def test_the_table_counts_classes_by_the_rows_that_arrive():
    stream = streams.si_blurry(DIGITS, 4, seed=1)
    experience, seen = stream.experiences["train"], set()
    for t, line in enumerate(_picture.table(stream).split("\n\n")[1].splitlines()[1:]):
        own = set(DIGITS.train["labels"][experience.rows[t][: experience.size[t]]].tolist())
        cells = [cell for cell in line.split("  ") if cell]
        found, new = ({int(n) for n in unfolded(cell)} for cell in cells[-2:])
        assert (found, new) == (own, own - seen) and int(cells[1].replace(",", "")) == experience.size[t]
        seen |= own
    drift = streams.drifting([streams.sea(0, 100), streams.sea(3, 100)], 4, order=(0, 1), width=2.0)
    share = (drift.experiences["train"].origin[1] == 1).mean()
    assert f" 0 {1 - share:.0%}, 1 {share:.0%} " in _picture.table(drift)


def unfolded(cell):
    """The numbers of "0-2 5"."""
    for run in cell.strip().replace("none", "").split():
        first, _, last = run.partition("-")
        yield from range(int(first), int(last or first) + 1)


def test_runs_of_numbers():
    assert _picture.spans([0, 1, 2, 5, 7, 8]) == "0-2 5 7-8" and _picture.spans([]) == ""
    assert _picture.spans([0, 2, 4, 6], most=3) == "0 2 ... (4)"


def test_a_checksum_tells_streams_apart_and_is_the_same_for_the_same():
    first = _picture.checksum(streams.permuted(DIGITS, 3))
    assert first == _picture.checksum(streams.permuted(streams.digits(), 3))
    assert first == _picture.checksum(streams.permuted(DIGITS, 3)._replace(name="other"))
    # Another order of the pixels: rows and origins are the same, the view is not.
    assert first[0] != _picture.checksum(streams.permuted(DIGITS, 3, seed=1))[0]
    assert first[0] != _picture.checksum(streams.rotated(DIGITS, 3))[0]
    labels = np.roll(DIGITS.train["labels"], 1)
    other = _picture.checksum(streams.permuted(DIGITS._replace(train={**DIGITS.train, "labels": labels}), 3))
    assert other[0] != first[0] and other[1] == first[1]
    # Padding is no part of a stream; inputs that stay on a disk are not read for it.
    stream = streams.class_incremental(DIGITS, 3)
    wider = {
        split: e._replace(rows=np.pad(e.rows, ((0, 0), (0, 5))), origin=np.pad(e.origin, ((0, 0), (0, 5))))
        for split, e in stream.experiences.items()
    }
    assert _picture.checksum(stream) == _picture.checksum(stream._replace(experiences=wider))
    host = streams.class_incremental(streams.on_host(DIGITS), 3)
    assert _picture.checksum(host) == (_picture.checksum(stream)[0], "not read")


SPOKEN = {"a": "$x_1$ ☃" * 90, "b": "日本語" * 90}


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        (streams.class_incremental(DIGITS, 5), "images as the learner sees them"),
        (streams.domain_incremental(streams.text(SPOKEN, length=16), 2), "windows of tokens"),
        (streams.drifting([streams.sea(0, 50), streams.sea(3, 50)], 4), "a colour for each class"),
        (streams.permuted(streams.series(np.arange(60.0), 5), 2), "a dot for what is asked"),
    ],
    ids=["images", "text", "table", "series"],
)
def test_each_kind_of_stream_is_drawn(stream, says, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.delenv("DISPLAY", raising=False)
    written = []
    from matplotlib.figure import Figure

    text = Figure.text
    monkeypatch.setattr(Figure, "text", lambda self, x, y, s, **o: (written.append(s), text(self, x, y, s, **o))[1])
    _picture.draw(stream, tmp_path / "new" / "a.png")
    assert says in written[1] and len(written) == 2 + len(stream.experiences["train"].size)
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10


def test_tokens_are_written_as_text():
    tokens = np.frombuffer(b"to be\nor", np.uint8).astype(np.int32)
    shown = [_picture.Shown(tokens[None], np.zeros(1, np.int32))]

    def written(some, decode):
        axes = type("Axes", (), {"text": lambda self, x, y, s, **o: lines.append(s)})()
        lines: list[str] = []
        _picture._paint_text(some, decode)(axes, some[0])
        return lines[0]

    assert written(shown, None) == "to be↵or"
    above = [_picture.Shown(np.array([[300, 2]]), np.zeros(1, np.int32))]
    assert written(above, None) == "300 2"
    assert written(above, lambda tokens: b"pair" if tokens.tolist() == [300, 2] else b"") == "pair"

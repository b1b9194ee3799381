"""What a run tells is right, fits the terminal, and takes back what a resumed run does again."""

import io
import json
import os
import re

import pytest

from experiments import _progress


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when it is told to."""
    now = [1000.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])

    def tick(seconds):
        now[0] += seconds

    return tick


def test_a_log_file_gets_a_line_every_ten_seconds(clock, capsys):
    bar = _progress.Bar("er", 1000, 0)
    bar.say("1000 steps")
    for done in range(50, 1001, 50):
        clock(4)
        bar.update(done, 0, {"loss": [1.0, 2.0]})
    bar.say("done")
    # Updates come at 4, 8, 12 ... seconds; lines at 12, 24 ...; 50 steps in 4 seconds since the first update.
    expected = [
        f"er: {done / 1000:4.0%}  step {done}/1000  experience 1  loss 1.5000  12.5 steps/s  {left} left"
        for done, left in (
            (150, "0:01:08"),
            (300, "0:00:56"),
            (450, "0:00:44"),
            (600, "0:00:32"),
            (750, "0:00:20"),
            (900, "0:00:08"),
        )
    ]
    assert capsys.readouterr().out.splitlines() == ["er: 1000 steps", *expected, "er: done"]


def test_a_resumed_run_counts_its_own_rate(clock, capsys):
    bar = _progress.Bar("er", 1000, 500)
    bar.update(510, 2, {"loss": [0.5]})  # compiled while it ran
    clock(20)
    bar.update(710, 2, {"loss": [0.5]})
    assert capsys.readouterr().out == ("er:  71%  step 710/1000  experience 3  loss 0.5000  10 steps/s  0:00:29 left\n")


def test_a_notebook_shows_one_line_that_covers_the_last(clock, monkeypatch):
    class OutStream(io.StringIO):
        """As a kernel's: no terminal, and from a module of its own."""

        __module__ = "ipykernel.iostream"

    out = OutStream()
    monkeypatch.setattr(_progress.sys, "stdout", out)
    bar = _progress.Bar("er", 1000, 0)
    for loss in (12.5, 1.0):
        clock(1)
        bar.update(100, 0, {"loss": [loss]})
    bar.say("done")
    first, second = (f"er:  10%  step 100/1000  experience 1  loss {loss}" for loss in ("12.5000", "1.0000 "))
    assert out.getvalue() == f"\r{first}\r{second}\ner: done\n"


def test_a_terminal_shows_one_line_that_fits(clock, capsys, monkeypatch):
    monkeypatch.setattr(_progress.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(_progress.shutil, "get_terminal_size", lambda: os.terminal_size((40, 24)))
    bar = _progress.Bar("er", 1000, 0)
    for done in (100, 200):
        clock(1)
        bar.update(done, 0, {"loss": [1.0]})
    bar.say("done")
    bar.say("again")
    first, second, end = re.fullmatch(r"\r(.*)\x1b\[K\r(.*)\x1b\[K\n(.*)", capsys.readouterr().out, re.S).groups()
    assert first == "er:  10%  step 100/1000  experience 1  lo"[:39] and len(second) == 39
    assert end == "er: done\ner: again\n"


def test_a_quiet_bar_only_says(clock, capsys):
    bar = _progress.Bar("er", 10, 0, quiet=True)
    clock(100)
    bar.update(5, 0, {"loss": [1.0]})
    bar.say("done")
    assert capsys.readouterr().out == "er: done\n"


def test_chunks_come_to_last_a_second(clock):
    pace = _progress.Pace(1.0)
    lengths = []
    for seconds_a_step in [3.0, 0.1, *[0.01] * 4, *[0.25] * 3]:
        lengths.append(pace.steps())
        clock(lengths[-1] * seconds_a_step)
        pace.tick(lengths[-1])
        clock(50)  # saving and evaluating does not count
    assert lengths == [1, 1, 10, 100, 100, 100, 100, 4, 4]


def test_a_cut_chunk_says_nothing_about_the_rate(clock):
    pace = _progress.Pace(2.0)
    for _ in range(2):
        pace.steps()
        clock(0.125)
        pace.tick(1)
    assert pace.steps() == 16
    clock(60)  # the end of an experience, and its evaluation
    pace.tick(3)
    assert pace.steps() == 16


def test_what_is_beyond_the_restored_step_is_taken_back(tmp_path):
    log = _progress.Log(tmp_path, 0)
    for step in (1, 2, 3):
        log.train(step, 0, {"loss": [0.5]}, 0.1 * step)
    log.eval(3, 0, {"accuracy": [[0.25, 0.75]]})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('[]\n{"no": "step"}\n{"step": "x"}\n{"kind": "train", "st')
    log = _progress.Log(tmp_path, 2)
    log.train(4, 1, {"loss": [0.25]}, 0.4)
    log.close()
    told = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert told == [
        {"kind": "train", "step": step, "experience": t, "loss": [loss], "seconds": 0.1 * step}
        for step, t, loss in ((1, 0, 0.5), (2, 0, 0.5), (4, 1, 0.25))
    ]
    assert not list(tmp_path.glob("*.part"))

"""The page and the table say what the files say, computed here by hand, and stay whole whatever the files hold."""

import json
import math
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import experiments
from experiments import _charts as charts
from experiments import _results as results
from experiments import report

# Two seeds, three experiences. Final: 0.7 and 0.6.
# Average incremental: (0.9 + 0.7 + 0.7) / 3 and (0.8 + 0.7 + 0.6) / 3.
# Forgetting: (0.4 + 0.1) / 2 and (0.5 + 0.2) / 2. Learning: (0.9 + 0.8 + 0.9) / 3 and (0.8 + 0.8 + 0.9) / 3.
MATRICES = [
    [[0.9, 0.0, 0.0], [0.6, 0.8, 0.0], [0.5, 0.7, 0.9]],
    [[0.8, 0.0, 0.0], [0.6, 0.8, 0.0], [0.3, 0.6, 0.9]],
]
# Of two values a and b the 95 percent interval is their mean ± 12.7062 * |a - b| / 2 (t of one degree of freedom).
FINAL, INCREMENTAL, FORGETTING, LEARNING = "65.0 ± 63.5", "73.3 ± 42.4", "30.0 ± 63.5", "85.0 ± 21.2"
EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Text, tags and table cells of a page; refuses one that is not well formed."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.rows: list[list[str]] = []
        self.feed(page)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("meta", "wbr"):
            return
        self.stack.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.stack, f"<{tag}/> closes itself in SVG only"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack and self.stack.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self.stack), data))
        if "td" in self.stack or "th" in self.stack:
            self.rows[-1][-1] += data

    def row(self, start: str) -> list[str]:
        return next(row for row in self.rows if row[0].startswith(start))

    def text(self) -> str:
        return " ".join(text for stack, text in self.texts if "style" not in stack)


def write_run(folder: Path, lines: list[Any] | None = None, **fields: Any) -> Path:
    run = {
        "name": "er", "stream": "class_incremental(digits, 3)", "method": "er", "model": "MLP", "metric": "accuracy",
        "seeds": [3, 7], "matrices": MATRICES, "baseline": [[0.1, 0.2, 0.3]] * 2, "seconds": 12.34, "steps": 1500,
        "steps_per_second": 1234.5, "finished": True, "experiences": 3,
        "config": {"optimizer": {"learning_rate": 0.1, "name": "sgd"}, "batch_size": 32},
        "versions": {"jax": "9.8.7"}, "command": "python -m experiments.continual --seeds=3,7", "device": "cpu",
    } | fields  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(run))
    if lines is not None:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (folder / "metrics.jsonl").write_text("\n".join(texts))
    return folder


def train(step: int, loss: list[float | None], experience: int = 0) -> dict[str, Any]:
    return {"kind": "train", "step": step, "experience": experience, "loss": loss, "accuracy": [0.5], "seconds": 0.1}


def page_of(*workdirs: Path, out: Path) -> tuple[str, Page]:
    assert report.write_report(workdirs, out) == out
    text = out.read_text(encoding="utf-8")
    return text, Page(text)


def test_the_page_says_the_numbers(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "er", [train(10, [2.0, 1.0]), train(20, [0.25, 0.75], 1)])
    _, page = page_of(folder, out=tmp_path / "deep" / "report.html")
    row = page.row("er")
    assert row[1:] == [
        "class_incremental(digits, 3)", FINAL, INCREMENTAL, FORGETTING, LEARNING, "2", "12.3 s", "1,234",
    ]  # fmt: skip
    cells = [text for stack, text in page.texts if stack[-2:] == ("g", "text")]
    assert cells == ["85.0", "0.0", "0.0", "60.0", "80.0", "0.0", "40.0", "65.0", "90.0"]
    assert "after 3, on 1: 40.0 ± 127.1" in page.text()  # 12.7062 * 0.2 / 2
    # Backward: (-0.4 - 0.1) / 2 and (-0.5 - 0.2) / 2. Forward: (0.0 - 0.2 + 0.0 - 0.3) / 2 for both.
    assert page.row("backward transfer")[1] == "-30.0 ± 63.5"
    assert page.row("forward transfer")[1] == "-25.0 ± 0.0"
    assert (page.row("seed 3")[1], page.row("seed 7")[1]) == ("70.0", "60.0")
    assert page.row("optimizer.learning_rate")[1] == "0.1"
    assert page.row("batch_size")[1] == "32"
    assert page.row("jax")[1] == "9.8.7"
    assert "python -m experiments.continual --seeds=3,7" in page.text()
    assert "last 0.5" in page.text()  # mean of 0.25 and 0.75


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    text, page = page_of(write_run(tmp_path / "er", [train(10, [2.0, 1.0])]), out=tmp_path / "report.html")
    assert "http:" not in text and "https:" not in text and "url(" not in text and "@import" not in text
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "img", "object", "base"}
    assert not [attrs for _, attrs in page.tags if "src" in attrs]
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    links = [str(attrs["href"]) for _, attrs in page.tags if "href" in attrs]
    assert links and all(link.startswith("#") and link[1:] in ids for link in links)
    assert "prefers-color-scheme: dark" in text


def test_what_a_run_says_is_text(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / '<b>"&', [train(1, [1.0])], name=EVIL, stream=EVIL, method=EVIL + "1", model=EVIL + "2",
        device=EVIL, command=EVIL, config={EVIL: {EVIL: [EVIL]}, '"': "'"}, versions={EVIL: EVIL, "jax": EVIL},
        seeds=[EVIL, EVIL],
    )  # fmt: skip
    text, page = page_of(folder, out=tmp_path / "report.html")
    assert "<script" not in text and '<b>"' not in text
    assert page.row(EVIL)[1] == EVIL
    assert page.row(f"{EVIL}.{EVIL}")[1] == json.dumps([EVIL])


def test_an_unfinished_run_shows_what_is_there(tmp_path: Path) -> None:
    started = [[[0.9, 0.0, 0.0], None, [None, None, None]], [[0.8, 0.0, 0.0], [None] * 3, None]]
    folder = write_run(
        tmp_path / "a" / "er", matrices=started, finished=False, seconds=None, steps=None, steps_per_second=None
    )
    text, page = page_of(folder, out=tmp_path / "report.html")
    assert page.row("er")[0].startswith("er1 of 3 done")
    assert page.row("er")[2:6] == ["–"] * 4
    assert page.row("er")[7:] == ["–", "–"]
    assert "nan" not in page.text()
    assert text.count('class="none"') == 6
    assert "85.0 after 1" in page.text()
    nothing = write_run(tmp_path / "b" / "si", matrices=[[None, None]], name="si", finished=False, baseline=None)
    _, page = page_of(tmp_path / "a", nothing, out=tmp_path / "report.html")
    assert page.row("si")[0].startswith("si0 of 2 done")


def test_one_seed_and_a_joint_run(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one", name="one", matrices=MATRICES[:1], seeds=[0], baseline=None)
    joint = tmp_path / "runs" / "joint"
    write_run(joint, name="joint", matrices=[[[0.9, 0.8, 0.4]]], seeds=[0], stream="joint", baseline=None)
    _, page = page_of(tmp_path / "runs", out=tmp_path / "report.html")
    assert page.row("one")[2:6] == ["70.0", "76.7", "25.0", "86.7"]
    assert page.row("joint")[2:6] == ["70.0", "–", "–", "–"]
    assert "after all" in page.text()
    _, page = page_of(joint, out=tmp_path / "report.html")
    assert "nothing to follow over time" in page.text()


def test_best_first_and_marked_within_its_stream(tmp_path: Path) -> None:
    def matrix(final: float) -> list[list[list[float]]]:
        return [[[0.9, 0.0], [final, final]]]

    for name, final, stream in (("low", 0.2, "a"), ("high", 0.6, "a"), ("mid", 0.4, "a"), ("alone", 0.8, "b")):
        write_run(tmp_path / "runs" / name, name=name, matrices=matrix(final), seeds=[0], stream=stream, baseline=None)
    started = tmp_path / "runs" / "x" / "started"
    write_run(started, name="open", matrices=[[[0.9, 0.0], None]], stream="a", finished=False, baseline=None)
    _, page = page_of(tmp_path / "runs", out=tmp_path / "report.html")
    head = next(k for k, row in enumerate(page.rows) if row[0] == "Run")
    firsts = [row[0] for row in page.rows[head + 1 : head + 6]]
    # The model stands under each name; `alone` has nobody to beat in its stream.
    assert firsts == ["aloneer · MLP", "highbester · MLP", "mider · MLP", "lower · MLP", "open1 of 2 doneer · MLP"]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "first")
    write_run(tmp_path / "second")
    _, page = page_of(tmp_path, tmp_path / "first", out=tmp_path / "report.html")
    names = [row[0] for row in page.rows if row[0].startswith("er (")]
    # The first was named twice and is shown once; the two are equally good.
    assert names == ["er (first)bester · MLP", "er (second)bester · MLP"]


def test_summary_table() -> None:
    runs = [
        {"name": "open", "seeds": [0], "matrices": [[[0.5, 0.0], None]], "seconds": None},
        {"name": "joint\x1b[31m", "seeds": [0], "matrices": [[[0.5, 0.3]]], "seconds": 1.0},
        {"name": "er", "seeds": [3, 7], "matrices": MATRICES, "seconds": 12.34},
    ]
    assert results.summary_table(runs).split("\n") == [
        "name        final accuracy  average incremental  forgetting   seconds",
        "er          65.0 ± 63.5     73.3 ± 42.4          30.0 ± 63.5     12.3",
        "joint?[31m  40.0            –                    –                1.0",
        "open        1 of 2 done     –                    –                  –",
    ]


def test_runs_are_found_one_and_two_levels_down(tmp_path: Path) -> None:
    near, far = write_run(tmp_path / "near"), write_run(tmp_path / "sweep" / "far")
    write_run(tmp_path / "too" / "far" / "down")
    assert results.find_runs(tmp_path) == [near, far]
    assert results.find_runs(near) == [near]


def test_a_killed_and_resumed_log(tmp_path: Path) -> None:
    lines = [
        train(10, [3.0]), train(20, [2.0]), train(30, [9.0]), '{"kind": "train", "st', "17", '{"kind": "other"}',
        train(20, [2.5]), {"kind": "eval", "step": 20, "split": "test"}, {"kind": "eval", "step": 20, "split": "valid"},
        '{"kind": "train", "step": 40, "lo',
    ]  # fmt: skip
    run = results.load_run(write_run(tmp_path / "er", lines))
    assert [(record["step"], record["loss"]) for record in run["train"]] == [(10, [3.0]), (20, [2.5]), (30, [9.0])]
    assert [record["split"] for record in run["eval"]] == ["test", "valid"]
    assert run["skipped_lines"] == 4


def test_a_diverged_loss_does_not_break_the_page(tmp_path: Path) -> None:
    lines = [train(1, [1.0]), train(2, [math.inf]), train(3, [None]), train(4, [math.nan]), train(5, [0.5])]
    _, page = page_of(write_run(tmp_path / "er", lines), out=tmp_path / "report.html")
    assert "last 0.5" in page.text()
    lines = [train(1, [math.nan])]
    _, page = page_of(write_run(tmp_path / "nan", lines), out=tmp_path / "report.html")
    assert "No run has logged a training loss" in page.text()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "without one"),
        ("not json", "could not be read"),
        ("[1, 2]", "lacks name, stream, seeds, matrices"),
        ('{"name": "x", "stream": "y", "seeds": [0]}', "lacks matrices"),
        ('{"name": "x", "stream": "y", "seeds": [0], "matrices": [[[0.1], [0.2, 0.3]]]}', "rows of one length"),
        ('{"name": "x", "stream": "y", "seeds": [0], "matrices": []}', "at least one seed"),
        ('{"name": "x", "stream": "y", "seeds": [0], "matrices": [[["a"]]]}', "nested lists"),
        ('{"name": "x", "stream": "y", "seeds": [0], "matrices": [[[[1]]]]}', "three levels"),
        ('{"name": "x", "stream": "y", "seeds": [0], "matrices": 3}', "nested lists"),
    ],
)
def test_a_foreign_folder_is_refused_in_one_sentence(tmp_path: Path, content: str | None, match: str) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(ValueError, match=match) as error:
        report.write_report([tmp_path], tmp_path / "report.html")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


def test_the_binary(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "experiments.report", *arguments]
        root = Path(experiments.__file__).parent.parent
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)

    folder, out = write_run(tmp_path / "er"), tmp_path / "page.html"
    good = run(f"--workdir={folder}", f"--out={out}")
    assert good.returncode == 0 and FINAL in good.stdout and str(out) in good.stdout
    assert FINAL in Page(out.read_text(encoding="utf-8")).row("er")
    bad = run(f"--workdir={tmp_path / 'missing'}", f"--out={tmp_path / 'never.html'}")
    assert bad.returncode == 2 and "which is no folder" in bad.stderr and "Traceback" not in bad.stderr
    assert not (tmp_path / "never.html").exists()


def test_no_folder_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give --workdir=DIR"):
        report.write_report([], tmp_path / "report.html")


def test_decimation_keeps_peaks_and_order() -> None:
    steps, values = np.arange(1000.0), np.sin(np.arange(1000.0))
    values[437], values[438] = 50.0, -50.0
    values[600:640] = np.nan
    x, y = report.decimate(steps, values, 200)
    assert 150 < len(x) <= 200
    assert (np.diff(x) > 0).all()
    np.testing.assert_array_equal(y, values[x.astype(int)])
    assert np.nanmax(y) == 50.0 and np.nanmin(y) == -50.0
    assert np.isnan(y).any()
    short = report.decimate(steps[:200], values[:200], 200)
    np.testing.assert_array_equal(short, (steps[:200], values[:200]))


def test_lines_lie_where_the_axes_say() -> None:
    x = charts.Axis(1, 3, [(1, "1")], "x")
    y = charts.Axis(0, 1, [(0, "0")], "y")
    line = charts.Series("a", 0, [1, 2, 3], [0.0, 0.25, 1.0], [0.1, 0.1, math.nan])
    chart = charts.line_chart([line], x, y, label="", height=100)
    assert 'd="M0.0 1000.0L500.0 750.0L1000.0 0.0"' in chart
    assert 'd="M0.0 900.0L500.0 650.0L500.0 850.0L0.0 1000.0Z"' in chart  # the band is cut at the axis
    gap = charts.line_chart([line._replace(y=[0.0, math.nan, 1.0])], x, y, label="", height=100)
    assert 'd="M0.0 1000.0M1000.0 0.0"' in gap
    level = charts.line_chart([line._replace(x=[1], y=[0.5], half_width=None, level=True)], x, y, label="", height=100)
    assert 'd="M0.0 500.0L1000.0 500.0"' in level


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.83, 0.97), (0, 15650), (0, 7.3), (0.2, 0.2), (12, 13.001)])
def test_linear_ticks_are_few_in_order_and_cover(low: float, high: float) -> None:
    axis = charts.linear_axis(low, high, "")
    values = [value for value, _ in axis.ticks]
    assert axis.low <= low + 1e-9 and axis.high >= high - 1e-9
    assert 1 <= len(values) <= 8 and values == sorted(set(values))
    assert all(abs(float(text.replace(",", "")) - value) < 1e-6 for value, text in axis.ticks)


def test_log_axis() -> None:
    axis = charts.log_axis(0.02, 30.0, "")
    assert [text for _, text in axis.ticks] == ["0.01", "0.1", "1", "10", "100"]
    np.testing.assert_allclose([axis.place(v) for v in (0.01, 1.0, 100.0, 0.0)], [0, 0.5, 1, 0])


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_heat_is_ordered_and_its_text_readable(mode: str) -> None:
    def linear(channel: float) -> float:
        return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4

    lights = []
    for step in range(21):
        fill, ink = charts.heat_color(step, mode)
        light = sum(w * linear(c / 255) for w, c in zip((0.2126, 0.7152, 0.0722), fill, strict=True))
        contrast = (light + 0.05) / 0.05 if ink == "#000" else 1.05 / (light + 0.05)
        assert contrast >= 4.5  # the bound of WCAG 2 level AA
        lights.append(light)
    assert lights == sorted(lights, reverse=mode == "light")


def test_labels_at_the_ends_do_not_collide() -> None:
    tops = charts._spread([50.0, 51.0, 10.0, 99.0, 98.0], 18, 100)
    ordered = sorted(tops)
    assert all(b - a >= 18 - 1e-9 for a, b in zip(ordered, ordered[1:], strict=False))
    assert ordered[-1] <= 100
    assert np.argsort(tops).tolist() == [2, 0, 1, 4, 3]

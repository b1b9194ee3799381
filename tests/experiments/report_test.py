"""The page and the table say what the files say, computed here by hand, and stay whole whatever the files hold."""

import base64
import hashlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import experiments
from experiments import _charts as charts
from experiments import _results as results
from experiments import report
from tests.reported import MATRICES, Page, evaluation, trace, train, write_run

# Of two values a and b the 95 percent interval is their mean ± 12.7062 * |a - b| / 2 (t of one degree of freedom).
FINAL, INCREMENTAL, FORGETTING, LEARNING = "65.0 ± 63.5", "73.3 ± 42.4", "30.0 ± 63.5", "85.0 ± 21.2"
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
# Two seeds, two experiences of four steps, tested after every second one.
TRACE = [
    ((2, 0), [[0.5, 0.0], [0.5, 0.0]]),
    ((4, 0), [[0.9, 0.0], [0.7, 0.0]]),
    ((6, 1), [[0.3, 0.5], [0.5, 0.4]]),
    ((8, 1), [[0.8, 0.7], [0.6, 0.9]]),
]
TRACED = [trace(*at, accuracy) for at, accuracy in TRACE]
SQUARE = [[[0.9, 0.0], [0.8, 0.7]], [[0.7, 0.0], [0.6, 0.9]]]


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
    assert "://" not in text and "url(" not in text and "@import" not in text
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "img", "object", "base"}
    assert not [attrs for _, attrs in page.tags if "src" in attrs]
    # Nothing is fetched, and of scripts only this one runs.
    (script,) = [text for stack, text in page.texts if stack[-1:] == ("script",)]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [attrs["content"] for _, attrs in page.tags if "http-equiv" in attrs]
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    links = [str(attrs["href"]) for _, attrs in page.tags if "href" in attrs]
    assert links and all(link.startswith("#") and link[1:] in ids for link in links)
    assert "prefers-color-scheme: dark" in text


def test_what_a_run_says_is_text(tmp_path: Path) -> None:
    fields = {
        "name": EVIL, "stream": EVIL, "method": EVIL + "1", "model": EVIL + "2", "device": EVIL, "command": EVIL,
        "versions": {EVIL: EVIL, "jax": EVIL}, "seeds": [EVIL, EVIL], "commit": EVIL, "matrices": SQUARE,
        "baseline": None,
    }  # fmt: skip
    first = write_run(tmp_path / '<b>"&', [train(1, [1.0]), *TRACED], config={EVIL: {EVIL: [EVIL]}, '"': "'"}, **fields)
    other = write_run(tmp_path / "b" / EVIL.replace("/", ""), [*TRACED[:2]], config={EVIL: EVIL}, **fields)
    stream = write_run(tmp_path / "c", [*TRACED[:2]], **fields | {"stream": EVIL + "3"})
    text, page = page_of(first, other, stream, out=tmp_path / "report.html")
    assert text.count("<script") == 1 and "<img" not in text and '<b>"' not in text
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    row = page.row(f'{EVIL} (<b>"&)')
    assert row[1] == EVIL and page.cells[page.rows.index(row)][1]["data-value"] == EVIL
    assert page.row(f"{EVIL}.{EVIL}")[1:] == [json.dumps([EVIL]), "–", "–"]
    assert page.row("commit")[1] == EVIL


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


def test_one_test_of_all_classes_has_a_curve(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "blurry", name="blurry", matrices=[[[0.3], [0.5], [0.6]], [[0.5], [0.5], [0.8]]])
    text, page = page_of(tmp_path / "runs", out=tmp_path / "report.html")
    assert page.row("blurry")[2].startswith("70.0") and page.row("blurry")[3:6] == ["–", "–", "–"]
    assert "Where one test asks for all classes" in page.text() and "nothing to follow over time" not in page.text()
    assert "accuracy on experience" not in text


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


def test_the_overview_can_be_sorted(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "er", seconds=7.5)
    started = [[[0.9, 0.0], None]]
    write_run(tmp_path / "runs" / "si", name="si", matrices=started, seeds=[0], seconds=None, baseline=None)
    _, page = page_of(tmp_path / "runs", out=tmp_path / "report.html")
    head = next(k for k, row in enumerate(page.rows) if row[0] == "Run")
    keys = [cell["data-key"] for cell in page.cells[head]]
    assert keys == ["run", "stream", "final", "incremental", "forgetting", "learning", "seeds", "time", "rate"]
    # What is good comes first; the page itself is in order of the ranks.
    assert [k for k, cell in zip(keys, page.cells[head], strict=True) if cell["data-first"] == "descending"] == [
        "final", "incremental", "learning", "seeds", "rate",
    ]  # fmt: skip
    assert [cell.get("aria-sort") for cell in page.cells[head]] == [None] * 2 + ["descending"] + [None] * 6
    er, si = ([cell["data-value"] for cell in cells] for cells in page.cells[head + 1 : head + 3])
    assert er[:2] == ["er", "class_incremental(digits, 3)"] and er[6:] == ["2", "7.5", "1234.5"]
    np.testing.assert_allclose([float(str(value)) for value in er[2:6]], [0.65, 2.2 / 3, 0.3, 2.55 / 3], rtol=1e-6)
    assert si == ["si", "class_incremental(digits, 3)", "", "", "", "", "1", "", "1234.5"]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "first")
    write_run(tmp_path / "second")
    _, page = page_of(tmp_path, tmp_path / "first", out=tmp_path / "report.html")
    names = [row[0] for row in page.rows if row[0].startswith("er (")]
    # The first was named twice and is shown once; the two are equally good.
    assert names == ["er (first)bester · MLP", "er (second)bester · MLP"]
    write_run(tmp_path / "more" / "first")
    _, page = page_of(tmp_path, out=tmp_path / "report.html")
    names = [row[0].partition(")")[0] for row in page.rows if row[0].startswith("er (") and "best" in row[0]]
    assert set(names) == {f"er ({tmp_path.name}/first", "er (more/first", "er (second"}


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
    lines = [train(1, [math.nan]) | {"seconds": None}]
    _, page = page_of(write_run(tmp_path / "nan", lines), out=tmp_path / "report.html")
    assert "No run has logged a training loss" in page.text()
    assert "No run has told when it took its steps" in page.text()


def test_the_norm_of_the_gradient_has_charts_of_its_own(tmp_path: Path) -> None:
    lines = [train(step, [1.0]) | {"gradient_norm": [norm, 3 * norm]} for step, norm in ((1, 0.5), (2, 0.125))]
    text, page = page_of(write_run(tmp_path / "er", lines), out=tmp_path / "report.html")
    assert len(figures(text, "Gradient norm of er")) == 1 and "last 0.25" in page.text()
    _, page = page_of(write_run(tmp_path / "old", [train(1, [1.0])]), out=tmp_path / "report.html")
    assert "No run has logged a gradient norm" in page.text()


def test_where_experiences_begin_is_marked_in_the_loss(tmp_path: Path) -> None:
    lines = [train(10, [1.0]), evaluation(10, 0), train(30, [1.0], 1), train(40, [0.5], 1), evaluation(40, 1)]
    text, _ = page_of(write_run(tmp_path / "er", lines), out=tmp_path / "report.html")
    assert figures(text, "Training loss of er")[0].count('class="mark"') == 1
    assert '<path class="mark" d="M250.0 0V1000"/>' in figures(text, "Training loss of er")[0]


def test_throughput_is_that_of_each_chunk(tmp_path: Path) -> None:
    # Two seeds: 10 steps in 1 s, 30 in 0.5 s, time that does not pass, 20 steps in 0.5 s.
    times = [(10, 1.0), (40, 1.5), (50, 1.5), (70, 2.0)]
    lines = [train(step, [1.0]) | {"seconds": seconds} for step, seconds in times]
    text, page = page_of(write_run(tmp_path / "er", lines), out=tmp_path / "report.html")
    assert "median 80.0" in page.text()
    # Of 20, 120, gap, 80 on an axis to 150.
    (figure,) = figures(text, "Steps a second of er")
    assert 'd="M142.9 866.7L571.4 200.0M1000.0 466.7"' in figure


def figures(text: str, label: str) -> list[str]:
    """The small charts that a screen reader calls so."""
    return [figure for figure in re.findall("<figure.*?</figure>", text) if f'aria-label="{label}"' in figure]


def test_traces_and_the_stability_gap(tmp_path: Path) -> None:
    stale = [trace(6, 1, [[0.0, 0.0], [0.0, 0.0]]), trace(7, 1, [[0.1]]), trace(5, 1, [["?"]]), {"kind": "trace"}]
    folder = write_run(tmp_path / "er", [*stale, *TRACED], matrices=SQUARE, baseline=None)
    text, page = page_of(folder, out=tmp_path / "report.html")
    # Minimum: 0.3 and 0.5. Worst case: (0.7 + 0.3) / 2 and (0.9 + 0.5) / 2. Drop: (0.6 + 0) / 2 and (0.2 + 0) / 2.
    # Rise: (0.5 + 0.7) / 2 and (0.2 + 0.9) / 2. Two values d apart have the half width 12.7062 * d / 2.
    head = next(k for k, row in enumerate(page.rows) if "Minimum accuracy" in row)
    assert page.rows[head + 1] == [" er", "40.0 ± 127.1", "60.0 ± 127.1", "20.0 ± 127.1", "57.5 ± 31.8", "4"]
    (first,), (second,) = (figures(text, f"Accuracy on experience {j} over steps") for j in (1, 2))
    assert 'd="M250.0 500.0L500.0 200.0L750.0 600.0L1000.0 300.0"' in first
    assert 'd="M250.0 1000.0L500.0 1000.0L750.0 550.0L1000.0 200.0"' in second
    assert re.findall('class="mark" d="([^"]*)"', first) == ["M500.0 0V1000"]


def test_a_run_that_began_its_trace_has_a_chart_and_no_numbers(tmp_path: Path) -> None:
    started = [[[0.9, 0.0], None], [[0.7, 0.0], None]]
    folder = write_run(tmp_path / "er", TRACED[:3], matrices=started, finished=False, baseline=None)
    text, page = page_of(folder, out=tmp_path / "report.html")
    head = next(k for k, row in enumerate(page.rows) if "Minimum accuracy" in row)
    assert page.rows[head + 1] == [" er", "–", "–", "–", "–", "3"]
    assert len(figures(text, "Accuracy on experience 1 over steps")) == 1 and "nan" not in page.text()
    one = write_run(tmp_path / "one", [trace(1, 0, [[0.5]])], matrices=[[[0.5]]], seeds=[0], baseline=None)
    _, page = page_of(one, out=tmp_path / "report.html")
    head = next(k for k, row in enumerate(page.rows) if "Minimum accuracy" in row)
    assert page.rows[head + 1] == [" er", "–", "–", "–", "–", "1"]


def test_traces_are_drawn_together_where_experiences_begin_together(tmp_path: Path) -> None:
    later = [record | {"step": 2 * record["step"]} for record in TRACED]
    many = [trace(1, 0, [[0.5] * 21])]
    for name, lines, fields in (
        ("whole", TRACED, {}),
        ("part", TRACED[:3], {"matrices": [[[0.6, 0.0], None]] * 2, "finished": False}),
        ("untraced", [train(1, [1.0])], {}),
        ("later", later, {}),
        ("begun", TRACED[:1], {"matrices": [[None, None]] * 2, "finished": False, "stream": "open"}),
        ("further", TRACED[:3], {"matrices": [[[0.6, 0.0], None]] * 2, "finished": False, "stream": "open"}),
        ("many", many, {"matrices": [[[0.5] * 21]], "seeds": [0], "stream": "joint"}),
    ):
        write_run(tmp_path / name, lines, **{"name": name, "matrices": SQUARE, "baseline": None} | fields)
    text, page = page_of(tmp_path, out=tmp_path / "report.html")
    charts_of_first = figures(text, "Accuracy on experience 1 over steps")
    lines = [re.findall("<title>(.*?)</title>", chart) for chart in charts_of_first]
    assert sorted(map(sorted, lines)) == [["begun", "further"], ["later"], ["many"], ["part", "whole"]]
    # As far as they are known, whichever run is further: the second experience begins at step 4 of 6.
    marks = {line[0]: re.findall('class="mark" d="M([^ ]*) ', chart)
             for line, chart in zip(lines, charts_of_first, strict=True)}  # fmt: skip
    assert marks["further"] == ["666.7"] and marks["many"] == []
    assert "The first 20 of 21 experiences." in page.text()
    assert not figures(text, "Accuracy on experience 21 over steps")
    section = text[text.index('id="gap"') : text.index('id="health"')]
    assert section.count("<h3>") == 4


def test_without_a_trace_the_page_says_how_to_get_one(tmp_path: Path) -> None:
    _, page = page_of(write_run(tmp_path / "er", [train(1, [1.0])]), out=tmp_path / "report.html")
    assert "No run was tested within its experiences" in page.text() and "--config.trace_every=50" in page.text()


def test_configs_are_compared(tmp_path: Path) -> None:
    def config(**fields: Any) -> dict[str, Any]:
        return {"name": "er", "model": {"hidden": [8, 8]}, "epochs": 2} | fields

    write_run(tmp_path / "runs" / "a", config=config())
    write_run(tmp_path / "runs" / "b", config=config(epochs=3, er={"size": 5}, steps=None))
    _, page = page_of(tmp_path / "runs", out=tmp_path / "report.html")
    head = page.rows.index(["Key", "er (a)", "er (b)"])
    assert page.rows[head + 1 : head + 4] == [["epochs", "2", "3"], ["er.size", "–", "5"], ["steps", "–", "null"]]
    assert "3 of 5 keys" in page.text()
    _, page = page_of(tmp_path / "runs" / "a", out=tmp_path / "report.html")
    assert "One run has nothing to differ from" in page.text()
    write_run(tmp_path / "runs" / "c", config=config())
    _, page = page_of(tmp_path / "runs" / "a", tmp_path / "runs" / "c", out=tmp_path / "report.html")
    assert "All runs have the same config" in page.text()


def test_where_a_run_comes_from(tmp_path: Path) -> None:
    config = {"b": [1, "é"], "a": {"y": None, "x": 0.5}}
    folder = write_run(tmp_path / "er", config=config, commit="0123abc-dirty")
    _, page = page_of(folder, out=tmp_path / "report.html")
    canonical = rb'{"a":{"x":0.5,"y":null},"b":[1,"\u00e9"]}'
    assert page.row("config hash")[1] == hashlib.sha256(canonical).hexdigest()[:12]
    assert page.row("commit")[1] == "0123abc-dirty" and page.row("device")[1] == "cpu"
    _, page = page_of(write_run(tmp_path / "none", commit=None), out=tmp_path / "report.html")
    assert page.row("commit")[1] == "unknown"


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
    x, y = charts.decimate(steps, values, 200)
    assert 150 < len(x) <= 200
    assert (np.diff(x) > 0).all()
    np.testing.assert_array_equal(y, values[x.astype(int)])
    assert np.nanmax(y) == 50.0 and np.nanmin(y) == -50.0
    assert np.isnan(y).any()
    short = charts.decimate(steps[:200], values[:200], 200)
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

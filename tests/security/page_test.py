"""The report: whatever strings a run holds, the page has the tags of a harmless one; and other kinds are told."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import _results, report
from tests.reported import Page, evaluation, trace, train, write_run
from tests.security.wild import EXAMPLES, HOSTILE, TEXTS, is_sentence, regrown

FIELDS = ("name", "stream", "method", "model", "device", "commit", "command", "metric")
LINES = [train(1, [1.0]), train(5, [1.0], 1), evaluation(3, 0), *(trace(2 * t, t, [[0.5] * 3] * 2) for t in range(3))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pages")


def written(folder, texts):
    """The page of two runs in which everything that can be a string is the next of some strings."""
    shutil.rmtree(folder / "runs", ignore_errors=True)
    # Each with a number, so that no two names or keys of a page are one.
    texts = (f"{text}{k}" for k, text in enumerate(texts))
    for k in range(2):
        fields = {field: next(texts) for field in FIELDS}
        config = {next(texts): next(texts), "same": {next(texts): [next(texts), None]}}
        versions = {"jax": next(texts), next(texts): next(texts)}
        lines = [{(fields["metric"] if key == "accuracy" else key): x for key, x in line.items()} for line in LINES]
        write_run(folder / "runs" / str(k), lines, config=config, versions=versions, **fields)
    return report.write_report([folder / "runs"], folder / "page.html").read_text(encoding="utf-8")


COUNT = 2 * (len(FIELDS) + 7)


@pytest.fixture(scope="module")
def plain(folder):
    return written(folder, ["plain"] * COUNT)


def skeleton(text):
    """The tags of a page with the names of their attributes, but for those that break a long word."""
    return [(tag, sorted(attributes)) for tag, attributes in Page(text).tags if tag != "wbr"]


@given(texts=st.lists(TEXTS, min_size=COUNT, max_size=COUNT))
@settings(EXAMPLES, max_examples=12)
def test_a_string_adds_no_tag_and_no_attribute(folder, plain, texts):
    text = written(folder, texts)
    assert skeleton(text) == skeleton(plain)
    found = Page(text)
    assert all(str(attributes.get("href", "#")).startswith("#") for _, attributes in found.tags)
    # And it is there, but for halves of characters.
    shown = found.text() + "".join(str(value) for _, attributes in found.tags for value in attributes.values())
    for k, name in enumerate(texts[: FIELDS.index("metric")]):
        assert f"{name}{k}".encode("utf-8", "replace").decode().split()[-1] in shown


@pytest.mark.parametrize("text", [text for text in HOSTILE if text])
def test_every_place_of_a_string(folder, plain, text):
    assert skeleton(written(folder, [text] * COUNT)) == skeleton(plain)


def test_a_string_of_a_megabyte(folder, plain):
    texts = ["plain"] * COUNT
    texts[FIELDS.index("command")] = "<b>&\"'" * 160_000
    text = written(folder, texts)
    assert text.count("<") == plain.count("<") and text.count('"') == plain.count('"') and len(text) > 1e6


@given(data=st.data())
@settings(EXAMPLES, max_examples=40)
def test_results_of_other_kinds_are_a_page_or_a_sentence(folder, data):
    shutil.rmtree(folder / "runs", ignore_errors=True)
    path = write_run(folder / "runs", [json.dumps(data.draw(regrown(LINES[k % len(LINES)]))) for k in range(3)])
    (path / "result.json").write_text(json.dumps(data.draw(regrown(json.loads((path / "result.json").read_text())))))
    try:
        report.write_report([path], folder / "page.html", ["50"])
    except ValueError as error:
        assert is_sentence(error) and str(error).endswith("give a folder written by experiments.continual.")
    else:
        Page((folder / "page.html").read_text(encoding="utf-8"))
        table = _results.summary_table([_results.load_run(path)])
        assert all(line.isprintable() for line in table.split("\n"))


@pytest.mark.parametrize(
    "line", ["[" * 100_000, '{"kind": "train", "step": 1e999}', '{"kind": {}, "step": 1}', "5", "null"]
)
def test_a_line_of_another_kind_is_counted(folder, line):
    shutil.rmtree(folder / "runs", ignore_errors=True)
    assert _results.load_run(write_run(folder / "runs", [*LINES, line]))["skipped_lines"] == 1


def test_a_result_without_end_is_told(folder):
    shutil.rmtree(folder / "runs", ignore_errors=True)
    (write_run(folder / "runs") / "result.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="could not be read as one"):
        _results.load_run(folder / "runs")

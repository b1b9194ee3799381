"""The files of evidence are whole, the tables are made of them, and a false gate fails."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ctrain_jax import metrics
from experiments import _evidence, evidence
from experiments._evidence import _common

ROOT = Path(__file__).parents[2]
FILES = sorted(evidence.FOLDER.glob("*.json"))
KEYS = ["name", "rows", "factory", "paper", "command", "seeds", "claims", "seconds", "versions", "date"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_has_the_schema(path):
    found = json.loads(path.read_text())
    assert list(found) == KEYS and found["name"] == path.stem
    package, name = found["factory"].rsplit(".", 1)
    assert callable(getattr(importlib.import_module(package), name)) and name == path.stem
    assert "arXiv" in found["paper"] and found["seconds"] > 0 and found["versions"]["jax"]
    assert found["command"].startswith(f"python -m experiments.evidence --name={path.stem}")
    assert "/" not in found["command"], "no path of a machine"
    kinds = {claim["kind"] for claim in found["claims"]}
    assert kinds == {"gate", "estimate"}
    assert len(found["seeds"]) >= 5
    for claim in found["claims"]:
        assert list(claim) == ["text", "kind", "value", "interval", "bound", "holds"]
        sign, number = claim["bound"].split()
        low, high = claim["interval"] or (claim["value"], claim["value"])
        expected = low >= float(number) if sign == ">=" else high <= float(number)
        assert sign in (">=", "<=") and claim["holds"] is expected
        assert (claim["interval"] is None) == (claim["kind"] == "gate")
        assert claim["holds"] or claim["kind"] == "estimate", "a false gate is never stored in the package"


@pytest.mark.parametrize("name, check", _evidence.checks().items())
def test_every_check_is_named_like_its_factory_and_has_been_run(name, check):
    assert check.factory.endswith(f".{name}") and len(check.seeds) >= 5
    stored = json.loads((evidence.FOLDER / f"{name}.json").read_text())
    assert stored["rows"] == list(check.rows) and stored["paper"] == check.paper
    assert ("--data_dir=DIR" in stored["command"]) == check.data


def test_the_tables_of_the_readmes_are_those_of_the_files():
    texts = evidence.tables()
    assert {readme.parent.name for readme in texts} >= {"continual", "peft"}
    for readme, text in texts.items():
        assert readme.read_text() == text, "run python -m experiments.evidence --tables"
    assert all(f"| `{path.stem}` |" in "".join(texts.values()) for path in FILES)


def test_a_table_says_what_does_not_hold():
    claims = [_common.gate("a | b", 2.0, most=1.0), _common.estimate("c", [1.0, 2.0, 3.0, 4.0, 5.0], least=1)]
    row, other = evidence.table([{"name": "x", "claims": [evidence._plain(c) for c in claims]}]).splitlines()[2:]
    assert row == r"| `x` | a \| b | 2 | <= 1 | **no** |"
    # 2.776 * sqrt(2.5) / sqrt(5): Student's quantile of four degrees of freedom.
    assert other == "| `x` | c | 3.00 ± 1.96 | >= 1 | yes |"


def test_an_estimate_holds_where_its_whole_interval_does():
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    half = float(metrics.mean_interval(values).half_width)
    assert _common.estimate("", values, least=3 - half - 1e-3).holds
    assert not _common.estimate("", values, least=3 - half + 1e-3).holds
    assert not _common.estimate("", values, most=3 + half - 1e-3).holds
    assert not _common.estimate("", [*values, np.nan], least=-9).holds
    assert not _common.gate("", np.nan, most=1).holds and _common.gate("", np.nan, most=1).value is None
    with pytest.raises(ValueError, match="at least 5 seeds, got 4"):
        _common.estimate("", values[:4], least=0)
    with pytest.raises(ValueError, match="expects one bound"):
        _common.gate("", 1.0)


PROGRAM = """
import sys
from experiments import _cli, evidence
from experiments._evidence import _common
good, bad = (_common.Check("ctrain_jax.continual." + name, "arXiv", lambda seeds, data_dir, value=value: [
    _common.gate("small", value, most=1), _common.estimate("large", [0.0] * 5, least=1)], rows=(7,))
    for name, value in (("good", 0.5), ("bad", 2.0)))
evidence.checks = lambda: {"bad": bad, "good": good}
evidence.define_flags()
_cli.run(evidence.main)
"""


def call(*flags, program=("-m", "experiments.evidence")):
    return subprocess.run([sys.executable, *program, *flags], cwd=ROOT, capture_output=True, text=True)


def test_a_false_gate_fails_and_a_missed_estimate_is_stored(tmp_path):
    done = call("--name=good", f"--out={tmp_path}", program=("-c", PROGRAM))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "good 0.5 <= 1 PASS  gate: small",
        "good 0.00 ± 0.00 >= 1 FAIL  estimate: large",
    ]
    assert [c["holds"] for c in json.loads((tmp_path / "good.json").read_text())["claims"]] == [True, False]
    done = call("--missing", f"--out={tmp_path}", program=("-c", PROGRAM))
    assert done.returncode == 1 and done.stdout.startswith("bad 2 <= 1 FAIL")
    done = call("--row=7", f"--out={tmp_path}", program=("-c", PROGRAM))
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 4


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (("--name=ewcc",), "error: 'ewcc' has no check: did you mean 'ewc'?\n"),
        (("--family=continuall",), "error: 'continuall' is no family with a check: did you mean 'continual'?\n"),
        (("--row=1000",), "error: row 1000 has no check: choose from 5, "),
        ((), "error: expected one of --name, --row, --family, --missing, --all, --tables: --all runs every check.\n"),
        (("--name=ewc", "--all"), "error: expected one of --name, --row"),
        (("ewc",), "error: unexpected argument 'ewc': name a check with --name (see --help).\n"),
    ],
)
def test_wrong_use_is_one_sentence(flags, sentence):
    done = call(*flags)
    assert done.returncode == 2 and done.stderr.startswith(sentence) and done.stderr.count("\n") == 1


def test_a_check_without_its_data_is_left_out_in_one_sentence(tmp_path):
    done = call("--name=missing", f"--data_dir={tmp_path}", f"--out={tmp_path}", program=("-c", LACKING))
    assert done.returncode == 2
    assert done.stderr.startswith("missing was not measured: tfds: 'mnist' is not prepared under")


LACKING = PROGRAM.replace(
    "evidence.checks =",
    'lacking = _common.Check("x", "arXiv", lambda seeds, data_dir: _common.handwritten(data_dir))\nevidence.checks =',
).replace('{"bad": bad, "good": good}', '{"missing": lacking}')


def test_help_teaches():
    done = call("--help")
    assert done.returncode == 0 and "python -m experiments.evidence --name=ewc" in done.stdout
    assert "Exit codes: 0 every gate holds" in done.stdout

"""experiments.data --verify and --config: one damaged byte is found, and wrong use is one sentence."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from ctrain_jax import streams
from experiments import _verify, data
from tests.forks import run_cases

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
SPLITS = {
    split: (RNG.integers(0, 256, (n, 28, 28), np.uint8), (np.arange(n) % 10).astype(np.uint8))
    for split, n in (("train", 30), ("test", 20))
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small data set in the place of MNIST."""
    folder = tmp_path_factory.mktemp("whole")
    data.write_builder("mnist", SPLITS, folder, version="3.0.1")
    return folder


@pytest.fixture
def small(monkeypatch):
    """MNIST is known as the small data set."""
    sha256 = {split: data.digest(*part) for split, part in SPLITS.items()}
    monkeypatch.setitem(data.DATASETS, "mnist", data.DATASETS["mnist"]._replace(sha256=sha256))
    return sha256


def test_what_was_prepared_is_what_it_should_be(whole, small, capsys):
    assert data._verify_all("mnist", whole) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"mnist/{split} {small[split][:16]} {small[split][:16]} PASS  {n} images 28 x 28, 10 classes, {n // 10} rows "
        "each; SHA-256 of pixels and labels"
        for split, n in (("train", 30), ("test", 20))
    ]


def test_one_damaged_byte_is_found_and_the_other_split_is_still_read(whole, small, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "damaged")
    file = tmp_path / "damaged/mnist/3.0.1/mnist-train.array_record-00000-of-00001"
    content = bytearray(file.read_bytes())
    content[content.index(b"\x89PNG") + 300] ^= 1
    file.write_bytes(content)
    assert data._verify_all("mnist", tmp_path / "damaged") == 1
    train, test = capsys.readouterr().out.splitlines()
    assert train.startswith(f"mnist/train unreadable {small['train'][:16]} FAIL  could not be read (RuntimeError: ")
    assert test.startswith("mnist/test ") and " PASS " in test


def test_rows_in_another_order_or_of_another_kind_are_found(whole, small, capsys, monkeypatch):
    dataset = data.DATASETS["mnist"]
    swapped = {**small, "test": data.digest(SPLITS["test"][0][::-1], SPLITS["test"][1])}
    monkeypatch.setitem(data.DATASETS, "mnist", dataset._replace(sha256=swapped))
    assert data._verify_all("mnist", whole) == 1
    assert [line.split()[3] for line in capsys.readouterr().out.splitlines()] == ["PASS", "FAIL"]
    monkeypatch.setitem(data.DATASETS, "mnist", dataset._replace(num_classes=11))
    assert data._verify_all("mnist", whole) == 1
    assert "; expected 28 x 28, 11 classes, of uint8;" in capsys.readouterr().out


def test_a_book_is_looked_at_for_what_can_be_known(tmp_path):
    folder = tmp_path / "debian_reference"
    folder.mkdir()
    (folder / "de.txt").write_text("Straße " * 20_000)
    (folder / "ja.txt").write_text("日本語")
    (folder / "fr.txt").write_bytes(b"\xff" * 200_000)
    checks = {check.name: check for check in data._verify.book(tmp_path, ("de", "ja", "fr", "it"))}
    assert [check.holds for check in checks.values()] == [True, False, False, False]
    assert checks["debian_reference/de"].value == "160000" and checks["debian_reference/ja"].value == "9"
    assert "UnicodeDecodeError" in checks["debian_reference/fr"].text
    assert "FileNotFoundError" in checks["debian_reference/it"].text


def test_what_the_library_carries_is_the_beginning_of_fashion_mnist(monkeypatch):
    assert all(check.holds for name in _verify.CARRIED for check in _verify.carried(name))
    whole = streams.fashion_mnist()
    inputs = whole.train["inputs"].copy()
    inputs[1234, 5, 6] ^= 1
    changed = whole._replace(train={**whole.train, "inputs": inputs})
    name = "fashion_mnist_embedded"
    monkeypatch.setitem(_verify.CARRIED, name, _verify.CARRIED[name]._replace(source=lambda: changed))
    assert [check.holds for check in _verify.carried(name)] == [False, True]


ER = "--config=configs/continual/er.py:runlocal"
CASES = {
    "not there": (["--name=mnist", "--verify", "--data_dir=nowhere"], 1),
    "no book": (["--name=debian_reference", "--verify", "--data_dir=nowhere"], 1),
    "carried": (["--name=digits"], 2),
    "verify alone": (["--verify"], 2),
    "picture alone": (["--picture=a.png"], 2),
    "two things": (["--name=mnist", ER], 2),
    "wrong config": ([ER, "--config.scenario.name=permutet"], 2),
    "wrong ending": ([ER, "--picture=a.xyz"], 2),
    "picture": ([ER, "--picture=folder/a.png", "--config.scenario.name=permuted"], 0),
}
SAID = {
    "not there": "error: data: mnist is not prepared under nowhere; run `python -m experiments.data --name=mnist --dat",
    "no book": "error: data: debian_reference is not prepared under nowhere; run `python -m experiments.data --name=",
    "carried": "error: digits needs no fetching, streams.digits() reads it from scikit-learn: add --verify to look at ",
    "verify alone": "error: --name is needed, as in --name=mnist: nothing is fetched that was not asked for (see --he",
    "picture alone": "error: --picture draws the stream of a config: add one, as in --config=configs/continual/er.py.",
    "two things": "error: one thing at a time: leave out --name or --config (see --help).",
    "wrong config": "error: 'permutet' is not a known scenario: did you mean 'permuted'?",
    "wrong ending": "error: --picture: a picture is a .png, .svg or .pdf file, got a.xyz.",
    "picture": "",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where every case has been run once."""
    folder = tmp_path_factory.mktemp("cases")
    run_cases(folder, "data", {name: arguments for name, (arguments, _) in CASES.items()})
    return folder


@pytest.mark.parametrize("name", CASES)
def test_what_is_said(folder, name):
    err, code = ((folder / f"{name}.{kind}").read_text() for kind in ("err", "code"))
    assert err.startswith(SAID[name]) and err.count("\n") == (CASES[name][1] > 0)
    assert int(code) == CASES[name][1]


def test_a_stream_of_a_config_is_told_and_drawn(folder):
    told = (folder / "picture.out").read_text().splitlines()
    assert told[0] == "digits_permuted: 5 experiences, 10 classes, inputs uint8[8, 8]"
    assert told[2].split() == ["experience", "rows", "task", "classes", "new", "classes"]
    assert told[4].split() == ["2", "1,437", "1", "0-9", "none"]
    assert told[-1] == "The picture is in folder/a.png." and told[-3].startswith("checksum ")
    assert (folder / "folder/a.png").read_bytes().startswith(b"\x89PNG")
    assert not (folder / "a.xyz").exists()

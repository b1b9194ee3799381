"""What becomes of a run whose numbers go wrong is its user's choice."""

import numpy as np
import pytest

from experiments import _build, _cli, _nonfinite, _progress, continual
from tests.faults import small


@pytest.fixture
def train(monkeypatch):
    """Trains with accidents; chunks have 3 steps and 1."""
    monkeypatch.setattr(_progress.Pace, "steps", lambda self: 3)

    def run(workdir, *accidents, seeds=2, **options):
        monkeypatch.setattr(_build, "build", small.builder(*accidents))
        return continual.train(small.config(), workdir, seeds, **options)

    return run


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_progress.Pace, "steps", lambda self: 3)
        patch.setattr(_build, "build", small.builder(small.accident("params", -1)))
        return continual.train(small.config(), tmp_path_factory.mktemp("healthy"), 2)


def test_a_run_stops_with_the_step_and_the_leaf(train, tmp_path):
    broken = small.accident("params", 6, seed=1)
    for _ in range(2):  # the same command meets it again
        with pytest.raises(_cli.Fault) as error:
            train(tmp_path, broken)
        assert error.value.code == _cli.BROKEN_NUMBERS == 3
        assert str(error.value) == (
            "the state after the update of step 6 (experience 1) is not finite in params.head.bias, "
            "params.head.kernel, for seed 1; the run stands at its checkpoint of step 4: lower the learning rate or "
            "clip gradients, or try --nonfinite=skip or --nonfinite=rollback."
        )
    assert not small.result(tmp_path)["finished"] and small.result(tmp_path)["steps"] == 4
    # What was wrong is gone, say a memory that lied: the run goes on from the checkpoint.
    assert train(tmp_path, small.accident("params", -1))["finished"]


def test_a_loss_that_is_not_finite_is_told_as_one(train, tmp_path):
    with pytest.raises(_cli.Fault, match=r"^the loss of step 3 \(experience 0\) is not finite, for seed 0, 1; the run"):
        train(tmp_path, small.accident("loss", 2))


def test_steps_can_be_skipped(train, tmp_path, healthy):
    told = train(tmp_path, small.accident("params", 6, seed=1), nonfinite="skip")
    assert told["finished"] and (told["skipped"], told["rollbacks"]) == (1, 0)
    skipped = [line["skipped"] for line in small.lines(tmp_path) if line["kind"] == "train"]
    assert skipped == [[0, 0], [0, 0], [0, 1], [0, 0]]
    np.testing.assert_allclose(told["matrices"][0], healthy["matrices"][0], atol=0.02)
    assert healthy["skipped"] == healthy["rollbacks"] == 0


def test_nothing_but_skipped_steps_ends_the_run(train, tmp_path, monkeypatch):
    monkeypatch.setattr(_nonfinite, "MOST_SKIPPED", 3)
    with pytest.raises(_cli.Fault, match="leaving such steps out did not help"):
        train(tmp_path, *[small.accident("loss", at) for at in range(8)], nonfinite="skip")


def test_a_run_rolls_back_and_goes_on_in_another_order(train, tmp_path, healthy, capsys):
    told = train(tmp_path, small.accident("params", 6, seed=1, once=True), nonfinite="rollback", save_seconds=0)
    assert told["finished"] and (told["skipped"], told["rollbacks"]) == (0, 1)
    assert "er: rolled back to step 4: the state after the update of step 6" in capsys.readouterr().out
    # The seed that had no accident is what it was, to the bit; the other one goes another way from the checkpoint on.
    assert told["matrices"][0] == healthy["matrices"][0]
    assert told["matrices"][1][0] == healthy["matrices"][1][0]
    steps = [line["step"] for line in small.lines(tmp_path) if line["kind"] == "train"]
    assert steps == [3, 4, 7, 8]


def test_a_run_rolls_back_to_its_beginning(train, tmp_path, healthy):
    told = train(tmp_path, small.accident("params", 2, seed=1, once=True), nonfinite="rollback")
    assert told["finished"] and told["rollbacks"] == 1
    assert told["matrices"][0] == healthy["matrices"][0] and len(told["matrices"][1]) == 2


def test_other_orders_that_do_not_help_end_the_run(train, tmp_path):
    with pytest.raises(_cli.Fault, match="other orders of the rows did not help 3 times; lower the learning rate"):
        train(tmp_path, small.accident("params", 6), nonfinite="rollback")

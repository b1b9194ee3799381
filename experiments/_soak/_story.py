"""Runs that suffer, beside one of the same recipe that nobody touches."""

import dataclasses
import itertools
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments._soak import _damage, _judge, _life

KILLS = ("kill", "kill_in_save")
KINDS = (*_life.SIGNALS, *_damage.KINDS)
_OTHERS = ("flip", "term", "truncate", "tmp", "delete", "interrupt")
_PATIENCE = 10  # lives without a newer checkpoint, or without a proper end


class Recipe(NamedTuple):
    """What is run, and how."""

    name: str
    flags: tuple[str, ...]  # of experiments.continual
    program: tuple[str, ...] = (sys.executable, "-m", "experiments.continual")
    window: float = 2.0  # seconds of computing within which a signal comes
    limit: float = 900.0  # seconds, after which a life is overdue


@dataclasses.dataclass
class Fault:
    """Something that was done to a run."""

    kind: str
    run: str
    life: int  # that it ended, or that it came after
    note: str = ""
    outcome: str = ""  # survived, lost, mismatched or failed; empty while a run goes on
    used: bool = False  # a damaged checkpoint that the run went on from all the same


@dataclasses.dataclass
class Told:
    """What was tried with a recipe."""

    recipe: Recipe
    faults: list[Fault] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)  # a sentence each
    lives: int = 0
    runs: int = 0
    steps: int = 0  # of one run


class Run:
    """A run that suffers, from one life to the next."""

    def __init__(self, path: Path):
        self.path = path
        self.life = 0  # the number of the latest
        self.faults: list[Fault] = []
        self.pending: list[Fault] = []  # those of which no life has shown yet whether they were survived
        self.patience, self._newest = _PATIENCE, 0
        self._floor = 0
        self._damaged: dict[int, tuple[int, Fault]] = {}

    def whole(self) -> list[int]:
        """Steps of the checkpoints that a run can go on from, oldest first."""
        there = _damage.checkpoints(self.path)
        self._damaged = {step: was for step, was in self._damaged.items() if there.get(step) == was[0]}
        return [step for step in there if step not in self._damaged]

    def floor(self, said: int | None = None) -> int:
        """The step that a resume may not fall short of: a checkpoint that was whole or that a life told of."""
        self._floor = max([self._floor, said or 0, *self.whole()])
        return self._floor

    def suffer(self, kind: str, note: str = "") -> Fault:
        """Note a fault."""
        fault = Fault(kind, self.path.name, self.life, note)
        self.faults.append(fault)
        self.pending.append(fault)
        return fault

    def can_suffer(self, kind: str) -> bool:
        """Whether it has a checkpoint that can be damaged so, and one that is left whole."""
        return len(self.whole()) > (kind != "tmp")

    def damage(self, kind: str, rng: random.Random) -> None:
        """Damage the newest checkpoint that is whole."""
        step = self.whole()[-1]
        note = _damage.KINDS[kind](self.path / "checkpoints" / str(step), rng)
        fault = self.suffer(kind, f"checkpoint {step}: {note}")
        if kind != "tmp":
            self._damaged[step] = _damage.checkpoints(self.path)[step], fault
            self._floor = self.whole()[-1]

    def resumed(self, step: int) -> None:
        """It went on from there: damage to this checkpoint, if any, hit nothing that matters."""
        if step in self._damaged:
            self._damaged.pop(step)[1].used = True
        self.patience = _PATIENCE if step > self._newest else self.patience
        self._newest = max(step, self._newest)


def plan(kills: int, rng: random.Random) -> list[str]:
    """Kinds of faults in a random order: of the kills two of five while saving, and two others for three of them."""
    in_save = kills * 2 // 5
    kinds = ["kill"] * (kills - in_save) + ["kill_in_save"] * in_save
    kinds += itertools.islice(itertools.cycle(rng.sample(_OTHERS, len(_OTHERS))), kills * 2 // 3)
    rng.shuffle(kinds)
    return kinds


class Story:
    """The runs of a recipe in a folder, of which the first is left alone.

    Args:
      recipe: what to run.
      folder: an empty one: for the workdirs, what the lives say, and the programs that they compile.
      rng: of moments and places.
      say: is given a line for each life.
    """

    def __init__(self, recipe: Recipe, folder: Path, rng: random.Random, say: Callable[[str], None]):
        self.told, self._folder, self._rng, self._say = Told(recipe), folder, rng, say
        self._startup = 0.0
        (folder / "lives").mkdir(parents=True)
        self.whole = Run(folder / "whole")
        life = self._live(self.whole, None)
        self.broken = self._wrong(self.whole, _judge.verdict(life, None, self._finished(self.whole), 0, ())[1])
        if not self.broken:
            self._leaves = _judge.leaves(self.whole.path)
            self.told.steps = _judge.result(self.whole.path)["steps"]

    def tell(self, kinds: Sequence[str]) -> Told:
        """Do to runs what the kinds name, in about this order: what cannot happen yet comes later."""
        queue = list(kinds)
        while queue and not self.broken:
            self.told.runs += 1
            run = Run(self._folder / f"run{self.told.runs}")
            while self.next_life(run, queue):
                pass
            self.end(run)
        return self.told

    def next_life(self, run: Run, queue: list[str]) -> bool:
        """Damage, and then a life: until it is struck by the next signal of the queue, or until its own end.

        Args:
          run: the one that suffers.
          queue: kinds of faults; those that came about are taken out of it.

        Returns:
          Whether the run goes on.
        """
        for kind in list(itertools.takewhile(lambda kind: kind not in _life.SIGNALS, queue)):
            if run.can_suffer(kind):
                queue.remove(kind)
                run.damage(kind, self._rng)
        kind = next((kind for kind in queue if kind in _life.SIGNALS), "term" if queue else None)
        floor, there = run.floor(), _damage.checkpoints(run.path)
        life = self._live(run, kind)
        finished = self._finished(run)
        outcome, wrong = _judge.verdict(life, kind, finished, floor, there)
        at = "" if life.resumed is None else f" from step {life.resumed} on"
        self._say(f"{self.told.recipe.name} {run.path.name} life {run.life}{at}: {kind or 'to its end'}")
        if outcome is not None:
            for fault in run.pending:
                fault.outcome = outcome
            run.pending = []
        if life.resumed is not None:
            run.resumed(life.resumed)
        run.floor(life.said)
        if kind is not None and life.struck and (kind in KILLS or not finished):
            if kind in queue:
                queue.remove(kind)
            # Where nothing half is left, the save was over before the signal came.
            missed = kind == "kill_in_save" and not _life.half_folders(run.path)
            fault = run.suffer("kill" if missed else kind, at.strip())
            fault.outcome = "failed" if outcome == "failed" else ""
        if self._wrong(run, wrong) or life.struck:
            run.patience -= 1
            if not run.patience:
                self.broken = self._wrong(run, f"came no further in {_PATIENCE} lives")
        return not self.broken and (life.struck or not finished)

    def end(self, run: Run) -> None:
        """Compare the end of a run with that of the one that nobody touched."""
        differ = [] if self.broken else _judge.differences(self.whole.path, run.path, self._leaves)
        self._wrong(run, f"ended in other bits: {', '.join(differ[:5])}" if differ else "")
        last = "failed" if self.broken else "mismatched" if differ else "survived"
        for fault in run.faults:
            fault.outcome = fault.outcome or last
        self.told.faults += run.faults
        self._say(f"{self.told.recipe.name} {run.path.name}: {'other' if differ else 'the same'} bits")

    def _live(self, run: Run, kind: str | None) -> _life.Life:
        run.life += 1
        self.told.lives += 1
        recipe = self.told.recipe
        command = [*recipe.program, *recipe.flags, f"--workdir={run.path}"]
        life = _life.live(
            command if run is self.whole else [*command, "--save_seconds=0"],
            run.path,
            self._log(run),
            cache=self._folder / "cache",
            kind=kind,
            rng=self._rng,
            window=recipe.window,
            startup=self._startup,
            limit=recipe.limit,
        )
        self._startup = life.started or self._startup
        return life

    def _log(self, run: Run) -> Path:
        return self._folder / "lives" / f"{run.path.name}_{run.life:03d}"

    def _finished(self, run: Run) -> bool:
        return _judge.result(run.path).get("finished", False)

    def _wrong(self, run: Run, sentence: str) -> bool:
        """Keep what went wrong, if anything."""
        if sentence:
            self.told.failures.append(f"{self.told.recipe.name} {run.path.name} {sentence}: see {self._log(run)}.err")
            self._say(self.told.failures[-1])
        return bool(sentence)

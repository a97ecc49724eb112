"""Timing contenders against one another: warm-up, then rounds in which each has one slot, in an order that changes.

Drift (clock speed, temperature, other processes) then affects all contenders alike, unlike in consecutive measurements. A slot
begins with an untimed run, which fills the caches with the weights of this contender; timed runs follow until the slot is full,
the same number in every round.
"""

from __future__ import annotations

import contextlib
import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rescompile.bench.statistics import WarmUp
from rescompile.records import record

Clock = Callable[[], float]


class Step(str):
    """What a benchmark does now, in words, and how much of this part is done: `done` of `total`, which is 0 if unknown."""

    done: int
    total: int

    def __new__(cls, text: str, done: int = 0, total: int = 0) -> Step:
        """Return a step."""
        step = super().__new__(cls, text)
        step.done, step.total = done, total
        return step

    def of(self, whole: str) -> Step:
        """Return the step as a part of something."""
        return Step(f"{whole}: {self}", self.done, self.total)


class Runs(Protocol):
    """Something that can be timed."""

    def run(self) -> None:
        """Run once, to completion."""


@record
class Plan:
    """The plan of a measurement: the number of rounds in each session, whose order is drawn from `seed`, with slots of about
    `slot` seconds and at most `runs` timed runs each. Contenders are prepared again for each of the `sessions`."""

    rounds: int = 30
    slot: float = 0.05
    runs: int = 20
    seed: int = 0
    warm_up: WarmUp = field(default_factory=WarmUp)
    sessions: int = 1


@dataclass(slots=True)
class Timing:
    """The times of contenders in seconds, by name, from one session or more. `rounds` has complete rounds only, so that it can be
    used after an interruption. `runs` is the number of runs in a slot, the same in every session."""

    warm_up: dict[str, list[float]] = field(default_factory=dict)
    settled: dict[str, bool] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    rounds: list[dict[str, list[float]]] = field(default_factory=list)

    def samples(self, name: str) -> list[list[float]]:
        """Return the times of one contender, round by round."""
        return [slots[name] for slots in self.rounds]

    def complete_sessions(self, plan: Plan) -> int:
        """Return the number of complete sessions, after dropping the rounds of an interrupted one. An interrupted first
        session counts as complete with the rounds that it has."""
        count = len(self.rounds) // plan.rounds
        if count:
            del self.rounds[count * plan.rounds :]
        return max(count, 1)


def measure(
    contenders: Mapping[str, Runs], plan: Plan, timing: Timing, clock: Clock = time.perf_counter
) -> Iterator[int]:
    """Warm up all contenders and time one session into `timing`; yields the number of rounds done, from 0."""
    draw = random.Random(plan.seed + len(timing.rounds))
    with _no_collection():
        for name, contender in contenders.items():
            timing.warm_up[name], settled = _warm_up(contender, plan.warm_up, clock)
            timing.settled[name] = settled and timing.settled.get(name, True)
            timing.runs.setdefault(name, _runs(timing.warm_up[name], plan))
            gc.collect()
        yield 0
        order: Sequence[str] = list(contenders)
        for number in range(plan.rounds):
            order = order[::-1] if number % 2 else draw.sample(list(order), len(order))
            timing.rounds.append({name: _slot(contenders[name], timing.runs[name], clock) for name in order})
            gc.collect()
            yield number + 1


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Disable garbage collection, as timeit does: a pause would be charged to the contender that runs. Existing objects are
    frozen, since collections between rounds would otherwise take longer than a slot."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def _warm_up(contender: Runs, until: WarmUp, clock: Clock) -> tuple[list[float], bool]:
    """Return the times of runs until they are stable, and whether they became stable."""
    times: list[float] = []
    while not until.over(times):
        times.append(timed(contender, clock))
    return times, until.stable(times)


def _runs(warm_up: Sequence[float], plan: Plan) -> int:
    """Return the number of runs that fill a slot, from their times at the end of the warm-up."""
    last = sorted(warm_up[-plan.warm_up.window :])
    typical = last[len(last) // 2]
    return max(1, min(plan.runs, math.ceil(plan.slot / typical))) if typical > 0 else plan.runs


def _slot(contender: Runs, runs: int, clock: Clock) -> list[float]:
    contender.run()
    return [timed(contender, clock) for _ in range(runs)]


def timed(contender: Runs, clock: Clock) -> float:
    """Return the seconds of one run."""
    start = clock()
    contender.run()
    return clock() - start

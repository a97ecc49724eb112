"""Timing contenders against one another: warm-up, then rounds in which each has its turn, in an order that changes.

Whatever drifts (clock speed, temperature, neighbours) then meets all of them alike, as it would not if one were timed after
the other. A turn begins with a run that is not timed, after which caches hold this contender's weights and no longer those
of the one before; then follow as many timed runs as fill the turn, equally many in each round.
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

Clock = Callable[[], float]


class Runs(Protocol):
    """What can be timed."""

    def run(self) -> None:
        """Do it once; it is done when this returns."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to measure: so many rounds, in an order drawn from `seed`, with turns of about `turn` seconds and at most `runs`
    timed runs each. All of it as often as there are `sittings`, for each of which contenders are prepared anew."""

    rounds: int = 30
    turn: float = 0.05
    runs: int = 20
    seed: int = 0
    warm_up: WarmUp = field(default_factory=WarmUp)
    sittings: int = 1


@dataclass(slots=True)
class Timing:
    """The times of several contenders, in seconds, by name, of one sitting or of several. `rounds` holds whole rounds only, so
    what is here after an interruption can be used. `runs` are those of a turn, as many in every sitting."""

    warm_up: dict[str, list[float]] = field(default_factory=dict)
    settled: dict[str, bool] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    rounds: list[dict[str, list[float]]] = field(default_factory=list)

    def samples(self, name: str) -> list[list[float]]:
        """The times of one contender, round by round."""
        return [turns[name] for turns in self.rounds]

    def whole(self, plan: Plan) -> int:
        """How many sittings are whole, after dropping the rounds of one that was interrupted; the rounds of a first one are
        all kept."""
        count = len(self.rounds) // plan.rounds
        if count:
            del self.rounds[count * plan.rounds :]
        return max(count, 1)


def measure(
    contenders: Mapping[str, Runs], plan: Plan, timing: Timing, clock: Clock = time.perf_counter
) -> Iterator[int]:
    """Warm all contenders up and time one sitting of them into `timing`; yields how many rounds are done, from 0."""
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
            timing.rounds.append({name: _turn(contenders[name], timing.runs[name], clock) for name in order})
            gc.collect()
            yield number + 1


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage is collected within, as timeit does it: a pause would be put down to whoever runs then. What is there
    already is left out of the collections between rounds, which would take longer than a turn."""
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
    """The times of runs until they are stable, and whether they became so."""
    times: list[float] = []
    while not until.over(times):
        times.append(_timed(contender, clock))
    return times, until.stable(times)


def _runs(warm_up: Sequence[float], plan: Plan) -> int:
    """How many runs fill a turn, by how long they took at the end of the warm-up."""
    last = sorted(warm_up[-plan.warm_up.window :])
    typical = last[len(last) // 2]
    return max(1, min(plan.runs, math.ceil(plan.turn / typical))) if typical > 0 else plan.runs


def _turn(contender: Runs, runs: int, clock: Clock) -> list[float]:
    contender.run()
    return [_timed(contender, clock) for _ in range(runs)]


def _timed(contender: Runs, clock: Clock) -> float:
    start = clock()
    contender.run()
    return clock() - start

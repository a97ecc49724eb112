"""A group of contenders that share their rounds: one network with its peers, at one batch, in all configurations.

They are timed in sessions, and prepared again in another order for each session. Each contender then has a row, unless its
outputs became wrong.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import Any

from rescompile.bench import equivalent_commands, profiling, statistics
from rescompile.bench.contenders import Contender
from rescompile.bench.measuring import Runs, Step, Timing, measure
from rescompile.bench.preparing import Preparer, check
from rescompile.bench.recorder import Recorder
from rescompile.bench.results import BenchRow, Control, Roofline
from rescompile.diagnostics.errors import CheckFailed, RescompileError, Unavailable
from rescompile.runtimes import device

#: The name of the control among the contenders.
_CONTROL = "the control"


@dataclass(slots=True)
class Group:
    """A running group, whose rows go to `recorder`. `contenders` maps titles to contenders; refused ones are removed."""

    name: str
    batch: int
    contenders: dict[str, Contender]
    recorder: Recorder
    timing: Timing = field(default_factory=Timing)

    def run(self, preparer: Preparer, stack: ExitStack) -> Iterator[Step]:
        """Time the contenders and record their rows, after an interruption those of complete sessions; yields the progress."""
        limits = {title: preparer.limit(each, self.batch) for title, each in self.contenders.items()}
        before = device.state()
        try:
            yield from self._sessions(stack)
        except (KeyboardInterrupt, GeneratorExit):
            self._record(limits, before)
            raise
        self._record(limits, before)

    def profile(self) -> None:
        """Add the shares of their blocks to the rows of compiled networks."""
        for at, row in enumerate(self.recorder.rows):
            contender = self.contenders.get(f"{row.model} on {row.runtime}, {row.precision}")
            if (
                contender is None
                or contender.model.network is None
                or (row.group, row.batch) != (self.name, self.batch)
            ):
                continue
            try:
                nodes = contender.configuration.runtime.profile(contender.job, contender.configuration.options)
            except Unavailable as problem:  # the row is valid without its shares
                self.recorder.problems.append(problem)
                continue
            self.recorder.rows[at] = replace(row, profile=profiling.shares(contender.model.network, nodes))

    def _sessions(self, stack: ExitStack) -> Iterator[Step]:
        """Time the contenders, which are already prepared for the first session; `stack` closes them."""
        plan = self.recorder.request.plan
        titles = [*self.contenders, *([_CONTROL] if self.recorder.request.control else [])]
        draw = random.Random(plan.seed)
        prepared: dict[str, Runs] = {title: each.prepared for title, each in self.contenders.items()}
        for session in range(plan.sessions):
            if session:
                stack.close()
                prepared.clear()
                draw.shuffle(titles)
            self._prepare(titles, prepared, stack)
            if not self.contenders:
                return
            which = f"session {session + 1} of {plan.sessions}, " if plan.sessions > 1 else ""
            timed = {title: prepared[title] for title in titles}
            try:
                for done in measure(timed, plan, self.timing, self.recorder.request.clock):
                    yield Step(
                        f"{which}round {done} of {plan.rounds}",
                        session * plan.rounds + done,
                        plan.sessions * plan.rounds,
                    )
            except (KeyboardInterrupt, GeneratorExit):
                self._check_outputs()
                raise
            self._check_outputs()

    def _prepare(self, titles: list[str], prepared: dict[str, Runs], stack: ExitStack) -> None:
        """Prepare the remaining contenders; refused ones are removed from `titles`."""
        for title in [title for title in titles if title not in prepared]:
            if title not in titles:  # a control whose first copy was refused
                continue
            contender = self.contenders.get(title) or next(iter(self.contenders.values()))
            configuration = contender.configuration
            try:
                again = stack.enter_context(
                    closing(configuration.runtime.prepare(contender.job, configuration.options))
                )
            except (CheckFailed, Unavailable) as problem:
                self._leave(title, problem, titles)
                continue
            prepared[title] = again
            if title in self.contenders:
                contender.prepared = again

    def _leave(self, title: str, problem: RescompileError, titles: list[str]) -> None:
        """Remove a contender that could not be prepared again. The control needs both of its copies."""
        refused = [self.contenders[title].configuration] if title in self.contenders else []
        self.recorder.refuse(problem, refused)
        gone = {title, *([_CONTROL] if title == next(iter(self.contenders)) else [])}
        titles[:] = [each for each in titles if each not in gone]
        self.contenders.pop(title, None)
        for slots in self.timing.rounds:
            for each in gone:
                slots.pop(each, None)

    def _check_outputs(self) -> None:
        """Compare the outputs of the last timed run of each contender with the reference."""
        for each in self.contenders.values():
            each.error = max(each.error, each.reference.error(each.prepared.outputs()))

    def _record(self, limits: dict[str, Roofline | None], before: dict[str, Any]) -> None:
        """Record the rows of contenders whose outputs stayed correct; none if there are too few rounds for an interval."""
        sessions = self.timing.complete_sessions(self.recorder.request.plan)
        if len(self.timing.rounds) < statistics.LEAST_ROUNDS:
            return
        after, seed = device.state(), self.recorder.request.plan.seed
        for title, contender in self.contenders.items():
            try:
                check(contender)
            except CheckFailed as wrong:
                self.recorder.refuse(wrong, [contender.configuration])
            else:
                self.recorder.rows.append(self._row(title, sessions, limits[title], before, after))
        if _CONTROL in self.timing.rounds[0]:
            name = next(iter(self.contenders))
            first, second = (statistics.table(self.timing.samples(each), sessions) for each in (name, _CONTROL))
            ratio = statistics.ratio(second, first, seed)
            self.recorder.controls.append(Control(self.name, self.batch, name, ratio, self.timing.samples(_CONTROL)))

    def _row(
        self, title: str, sessions: int, limit: Roofline | None, before: dict[str, Any], after: dict[str, Any]
    ) -> BenchRow:
        contender, samples = self.contenders[title], self.timing.samples(title)
        model, configuration = contender.model, contender.configuration
        summary = statistics.summarise(samples, self.batch, self.recorder.request.plan.seed, sessions)
        facts = {**model.facts, **contender.prepared.facts}
        return BenchRow(
            group=self.name,
            model=model.name,
            runtime=configuration.text,
            precision=configuration.precision,
            batch=self.batch,
            sha256=model.sha256,
            artifact=contender.artifact,
            passes=list(contender.passes),
            parameters=model.parameters,
            macs=model.macs,
            build=contender.build,
            first=contender.first,
            warm_up=len(self.timing.warm_up[title]),
            settled=self.timing.settled[title],
            samples=samples,
            summary=summary,
            error=contender.error,
            bound=contender.bound,
            facts=facts,
            before=before,
            after=after,
            roofline=None if limit is None else replace(limit, fraction=limit.limit / summary.p50),
            again=equivalent_commands.lines(configuration.runtime.name, configuration.precision, contender.file, facts),
            sittings=sessions,
        )

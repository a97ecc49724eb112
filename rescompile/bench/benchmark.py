"""Runs a benchmark: prepares contenders, checks them against float64, times them in interleaved rounds, and records each row.

A row with wrong outputs is not recorded; refused configurations are reported at the end, after the valid rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from rescompile.bench import peers, statistics, tuning
from rescompile.bench.contender_group import Group
from rescompile.bench.contenders import (
    Configuration,
    Contender,
    Request,
    TuneRequest,
    configurations,
    with_fewer_threads,
)  # fmt: skip
from rescompile.bench.measuring import Step
from rescompile.bench.preparing import Preparer
from rescompile.bench.recorder import Recorder
from rescompile.bench.reference import Reference
from rescompile.bench.results import Missing, Result, Tuning, rows_of
from rescompile.bench.timed_models import BenchModel, inputs, of_peer, of_spec
from rescompile.diagnostics.errors import CheckFailed, RescompileError, Unavailable, UsageError
from rescompile.ir.network import Network
from rescompile.ir.ops import Shape
from rescompile.runtimes.ort_session import brief
from rescompile.weights import Array


class Bench:
    """A running benchmark. `result` contains the rows so far at any time; `problems` contains the errors behind missing
    ones."""

    def __init__(self, request: Request, say: Callable[[str], None]) -> None:
        """Raises what `configurations` raises, and Unavailable if SciPy is missing."""
        statistics.require()
        self._request = request
        self._configurations, missing = configurations(request)
        for each in missing:
            say(f"skipping {each.runtime} in {each.precision}: {each.why}")
        self._recorder = Recorder(request, missing)
        self._peers: dict[tuple[str, Shape], BenchModel] = {}

    @property
    def result(self) -> Result:
        """The rows that are finished."""
        return self._recorder.result()

    @property
    def problems(self) -> list[RescompileError]:
        """The errors behind missing rows."""
        return self._recorder.problems

    def titles(self) -> dict[str, list[str]]:
        """Return the possible names of the rows of each network, as MODEL@RUNTIME; with `tune`, those of all configurations
        that are tried."""
        request, tried = self._request, list(self._configurations)
        if request.tune is not None and request.threads is None:
            tried += [fewer for each in self._configurations for fewer in with_fewer_threads(each)]
        runtimes = list(dict.fromkeys(each.text for each in tried))
        titles = {}
        for network in request.networks:
            variants = [f"{network.name} {label}" for label in request.variants]
            models = [network.name, *variants, *request.peers_of(network)]
            titles[network.name] = [f"{model}@{runtime}" for model in models for runtime in runtimes]
        return titles

    def run(self) -> Generator[Step, None, None]:
        """Measure group by group and yield the progress. When this ends, also by an interruption, `result` contains the
        finished rows."""
        request = self._request
        for peer in request.peers:
            peers.constructor(peer)
        try:
            with ExitStack() as stack:
                folder = request.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
                preparer = Preparer(folder, request.threads)
                for network in request.networks:
                    yield Step(f"{network.name}: weights and references")
                    models = self._models(network)
                    for batch in request.batches:
                        # A group records its rows when it is closed.
                        with closing(self._group(models, batch, preparer)) as steps:
                            yield from (step.of(f"{network.name}, batch {batch}") for step in steps)
        except (KeyboardInterrupt, GeneratorExit):
            self._recorder.interrupted = True
            raise

    def _models(self, network: Network) -> list[BenchModel]:
        """Return a network, its variants, and its peers."""
        request, seed = self._request, self._request.plan.seed
        models = [of_spec(network, request.passes, seed)]
        models += [
            of_spec(network, {**request.passes, **passes}, seed, label) for label, passes in request.variants.items()
        ]
        for peer in request.peers_of(network):
            key = peer, network.input
            try:
                if key not in self._peers:
                    self._peers[key] = of_peer(peer, network.input, seed, request.exporter)
                models.append(self._peers[key])
            except UsageError as problem:  # the peer needs other inputs, which may be those of the other specs
                self._recorder.refuse(problem, self._configurations)
        return models

    def _group(self, models: Sequence[BenchModel], batch: int, preparer: Preparer) -> Generator[Step, None, None]:
        """Measure all contenders of a group in the same rounds and yield the progress."""
        name, tune = models[0].name, self._request.tune
        x = inputs(models[0].input, batch, self._request.plan.seed)
        contenders: dict[str, Contender] = {}
        race = None
        with ExitStack() as stack:
            for model in models:
                try:
                    reference = Reference(model, x)
                except CheckFailed as error:
                    self._recorder.refuse(error, self._configurations)
                    continue
                if tune is None:
                    yield from self._prepare(model, x, reference, preparer, stack, contenders)
                    continue
                race = self._race(tune, model, x, reference, preparer, stack)
                yield from _guarded(race.run(), name, batch)
                contenders = {_title(model, each): contender for each, contender in race.contenders.items()}
            if contenders:
                group = Group(name, batch, contenders, self._recorder)
                yield from _guarded(group.run(preparer, stack), name, batch)
            elif race is not None:
                self.problems.extend(race.problems[:1])
            if race is not None and tune is not None:
                self._record_tuning(tune, race, name, batch)
            if contenders and self._request.profile:
                yield Step("profiles")
                group.profile()

    def _prepare(
        self, model: BenchModel, x: Array, reference: Reference, preparer: Preparer, stack: ExitStack,
        contenders: dict[str, Contender],
    ) -> Iterator[Step]:  # fmt: skip
        """Add the contenders of a model and yield the one being prepared."""
        for at, configuration in enumerate(self._configurations):
            title = _title(model, configuration)
            if (why := model.lacks(configuration.runtime.takes)) is not None:
                self._recorder.missing.append(Missing(configuration.text, configuration.precision, why))
                continue
            yield Step(title, at, len(self._configurations))
            try:
                contenders[title] = preparer.contender(model, configuration, x, reference, stack)
            except (CheckFailed, Unavailable) as problem:
                self._recorder.refuse(problem, [configuration])

    def _race(
        self, tune: TuneRequest, model: BenchModel, x: Array, reference: Reference, preparer: Preparer, stack: ExitStack
    ) -> tuning.Race:
        """Search for the fastest configuration of a network."""
        return tuning.Race(
            f"{model.name} at batch {len(x)}", self._request, tune.accuracy, self._configurations,
            lambda each: preparer.contender(model, each, x, reference, stack),
            lambda each: tune.command(model.name, each.text, each.precision, len(x)),
        )  # fmt: skip

    def _record_tuning(self, tune: TuneRequest, race: tuning.Race, name: str, batch: int) -> None:
        """Record the outcome of a search: the rows that were measured to the end, and all that was dropped before."""
        result = self.result
        rows = rows_of(result, name, batch)
        control = result.control(rows[0]) if rows else None
        finished = tuning.finished(
            rows, control, lambda row: tune.command(row.model, row.runtime, row.precision, row.batch)
        )
        best = finished[0] if len(tuning.fastest(rows, control)) == 1 else None
        self._recorder.tunings.append(Tuning(name, batch, tune.accuracy, race.base, best, [*finished, *race.dropped]))


def _title(model: BenchModel, configuration: Configuration) -> str:
    return f"{model.name} on {configuration.text}, {configuration.precision}"


def _guarded(steps: Iterator[Any], name: str, batch: int) -> Iterator[Any]:
    """Run steps that time third-party code. Raises Unavailable if they fail."""
    try:
        yield from steps
    except (RescompileError, MemoryError):
        raise
    except Exception as error:  # such as a lost device or a failing kernel
        message = f"a runtime failed while timing {name} at batch {batch}: {brief(error)}"
        raise Unavailable.of("E0901", message) from None

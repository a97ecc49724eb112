"""`bench --tune`: the candidates, the drops and the ranking, on runtimes with known times under their own clock."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import rescompile
from rescompile.bench import contenders, json_files, report, results, tuning
from rescompile.bench.benchmark import Bench
from rescompile.bench.contenders import Request, TuneRequest
from rescompile.bench.measuring import Plan
from rescompile.bench.results import Result, Tuning
from rescompile.cli import app
from rescompile.diagnostics.errors import Diagnostic, RescompileError, Unavailable
from rescompile.options import Option
from rescompile.runtimes import RUNTIMES, Job, Runtime, device, roofline

pytest.importorskip("torch", reason="timed outputs are checked against float64 torch")

NET = "resnet20_cifar"
AGAIN = ("rescompile", "bench", NET)


class Clock:
    """A clock that is advanced by runs only."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    __name__ = "scripted"


class Machine:
    """A runtime library with known times: `times` per image in seconds by configuration, with `noise` and a `fixed`
    time per run; `errors` are added to the correct outputs."""

    def __init__(self) -> None:
        self.clock, self.draw = Clock(), np.random.default_rng(0)
        self.fixed = 0.0
        self.times: dict[str, float] = {}
        self.errors: dict[str, float] = {}
        self.noise: dict[str, float] = {}
        self.broken: set[str] = set()
        self.prepared: set[str] = set()
        self.runs: dict[str, int] = {}
        self.open = 0

    def missing(self, runtime: Runtime) -> str | None:
        return None

    def prepare(self, runtime: Runtime, job: Job, options: Mapping[str, str]) -> Any:
        way = ":".join(
            [runtime.name, *(key if key == "compile" else f"{key}={value}" for key, value in options.items())]
        )
        title = f"{way} {job.precision}"
        if title in self.broken:
            raise Unavailable(Diagnostic("E0901", f"{way} is broken"))
        self.prepared.add(title)
        return Prepared(self, title, job)


class Prepared:
    """A prepared network whose runs advance the machine's clock by the time in the table."""

    build_seconds, first_seconds = 0.1, 0.01

    def __init__(self, machine: Machine, title: str, job: Job) -> None:
        from rescompile.bench import torch_modules

        assert job.module is not None
        self.machine, self.title, self.batch = machine, title, len(job.input)
        self.facts: Mapping[str, Any] = {"threads": job.threads}
        (name, right), *_ = torch_modules.outputs(job.module(), job.input).items()
        self.given = {name: right * np.float32(1 + machine.errors.get(title, 0.0))}
        machine.open += 1

    def run(self) -> None:
        machine = self.machine
        machine.runs[self.title] = machine.runs.get(self.title, 0) + 1
        noise = machine.noise.get(self.title, 0.001)
        seconds = machine.fixed + machine.times[self.title] * self.batch
        machine.clock.now += seconds * float(np.exp(machine.draw.normal(0, noise)))

    def outputs(self) -> Mapping[str, Any]:
        return self.given

    def close(self) -> None:
        self.machine.open -= bool(self.given)
        self.given = {}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Replace all runtimes by three with known times, on four cores, with a constant roofline."""
    import torch

    made = Machine()
    monkeypatch.setitem(sys.modules, "rescompile.runtimes.made", made)
    threads = Option("threads", int, None, "", 1)
    compiled = Option("compile", str, None, "", choices=("default",))
    for name in reversed(list(RUNTIMES)):  # undone in reverse, which restores the order
        monkeypatch.delitem(RUNTIMES, name)
    for name, options in (("torch-cpu", (compiled, threads)), ("quick", (threads,)), ("rigid", ())):
        precisions = ("fp32",) if name == "rigid" else ("fp32", "bf16")
        monkeypatch.setitem(RUNTIMES, name, Runtime(name, "", "cpu", "torch", precisions, "run", "made", options))
    monkeypatch.setattr(contenders, "OPTIONS", {"torch-cpu": ("compile",)})
    monkeypatch.setattr(contenders, "usable", lambda: 4)
    monkeypatch.setattr(device, "state", dict)
    monkeypatch.setattr(
        roofline, "measure", lambda device, precision, threads: roofline.Roofline(precision, {1 << 20: 1e10}, 1e10)
    )  # fmt: skip
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    made.times = {
        f"{way}{threads} {precision}": seconds * slower
        for way, seconds in (("torch-cpu", 0.010), ("torch-cpu:compile", 0.008), ("quick", 0.005), ("rigid", 0.006))
        for threads, slower in (("", 1.0), (":threads=1", 2.0), (":threads=2", 1.5))
        for precision in ("fp32", "bf16")
    }
    yield made
    torch.set_num_threads(before)
    assert made.open == 0, "every prepared network is closed"


def tuned(machine: Machine, accuracy: float = 1e-2, **facts: Any) -> tuple[Result, list[RescompileError]]:
    """Return the result of a search on the machine, and its problems."""
    network = rescompile.elaborate(rescompile.load(NET))
    request = Request(
        [network], {}, (), (), (), [1], Plan(rounds=12, slot=0.0), tune=TuneRequest(accuracy, {NET: AGAIN}), clock=machine.clock,
    )  # fmt: skip
    bench = Bench(dataclasses.replace(request, **facts), lambda text: None)
    for _ in bench.run():
        pass
    return bench.result, bench.problems


def fates(found: Tuning) -> dict[str, str]:
    """Return the fate of each candidate."""
    return {f"{each.runtime} {each.precision}": each.fate for each in found.candidates}


def test_the_fastest_is_found(machine: Machine) -> None:
    """The fastest configuration is named with the command that measures it, and the finalists have rows."""
    machine.times["quick bf16"] = 0.004
    machine.times["quick:threads=2 bf16"] = 0.003  # more threads are not always better
    result, problems = tuned(machine)
    assert not problems
    (found,) = result.tunings
    assert found.best is not None
    assert (found.best.runtime, found.best.precision, found.best.fate) == ("quick:threads=2", "bf16", "fastest")
    assert found.best.command == f"rescompile bench {NET} --runtime quick:threads=2 --precision bf16 --batch 1"
    assert found.best == found.candidates[0]
    assert found.base == "torch-cpu"
    assert {"torch-cpu", "quick:threads=2"} <= {row.runtime for row in result.rows}
    seconds = [each.seconds for each in found.candidates[: len(result.rows)]]
    assert seconds == sorted(seconds, key=float)
    assert len(found.candidates) >= 7 + 2, "every configuration, and the thread counts of the best"
    text = report.markdown(result)
    assert "Best: quick:threads=2 in bf16." in text
    assert f"    {found.best.command}\n" in text
    assert "Speed-ups are relative to resnet20_cifar on torch-cpu in fp32." in text
    line = next(line for line in text.splitlines() if line.startswith(f"| {NET} | quick:threads=2 | bf16"))
    assert any(f"| {speed} |" in line for speed in ("3.33x", "3.34x", "3.32x"))


@pytest.mark.slow
def test_of_indistinguishable_configurations_none_is_the_best(machine: Machine) -> None:
    """Of two configurations with the same time neither is the best, and both are named."""
    machine.times["rigid fp32"] = machine.times["quick bf16"] = 0.004
    machine.times["quick fp32"] = 0.006
    result, _ = tuned(machine)
    (found,) = result.tunings
    assert found.best is None
    fate_of = fates(found)
    assert {fate_of["rigid fp32"], fate_of["quick bf16"]} == {
        "smallest median",
        "no significant difference from the fastest",
    }
    assert fate_of["torch-cpu fp32"] == "slower"
    assert "No best: " in report.markdown(result)


@pytest.mark.slow
def test_a_poor_control_decides_nothing(machine: Machine) -> None:
    """With times that scatter by half, no finalist is the best."""
    machine.times = dict.fromkeys(machine.times, 0.01) | {"quick fp32": 0.0095}
    machine.noise = dict.fromkeys(machine.times, 0.5)
    result, _ = tuned(machine, control=True)
    (found,) = result.tunings
    assert result.controls
    assert found.best is None


@pytest.mark.slow
def test_slow_candidates_are_dropped_early(machine: Machine) -> None:
    """A candidate whose first runs take more than three times the fastest is dropped before the rounds; eager torch,
    the baseline, is measured to the end."""
    machine.times |= {"rigid fp32": 0.05, "torch-cpu fp32": 0.05}
    result, _ = tuned(machine)
    (found,) = result.tunings
    fate_of = fates(found)
    assert fate_of["rigid fp32"].startswith("dropped: first run 10.")
    assert machine.runs["rigid fp32"] == 5
    assert fate_of["torch-cpu fp32"] == "slower"
    assert machine.runs["torch-cpu fp32"] > 12


def test_halving(machine: Machine) -> None:
    """The slower half is dropped after a few rounds, except candidates that may still be the fastest."""
    ways = {f"way{at}": 0.010 + 0.001 * at for at in range(8)}
    from rescompile.bench.measuring import Timing

    def rung(noise: float) -> list[str]:
        draw = np.random.default_rng(1)
        rounds = [{way: [t * float(np.exp(draw.normal(0, noise)))] for way, t in ways.items()} for _ in range(5)]
        return tuning.halved(Timing(rounds=rounds), ways, "way7")[0]

    assert rung(0.001) == ["way0", "way1", "way2", "way3", "way7"]
    noisy = rung(0.5)
    assert len(noisy) > 5
    assert "way7" in noisy


@pytest.mark.slow
def test_an_inaccurate_precision_is_tried_once(machine: Machine) -> None:
    """Once a precision is far too inaccurate, its other configurations are not prepared; a smaller error does not
    exclude them."""
    machine.errors = {title: 4e-2 for title in machine.times if title.endswith("bf16")}
    result, _ = tuned(machine)
    fate_of = {title: fate for title, fate in fates(result.tunings[0]).items() if title.endswith("bf16")}
    assert fate_of.pop("torch-cpu bf16") == "error above 0.01"
    assert set(fate_of.values()) == {"skipped: bf16 error is 4.0e-02"}
    assert not machine.prepared & set(fate_of)
    machine.errors |= {"torch-cpu bf16": 2e-2, "quick bf16": 5e-3}
    result, _ = tuned(machine)
    assert ("quick", "bf16") in {(row.runtime, row.precision) for row in result.rows}


@pytest.mark.slow
def test_accuracy_comes_first(machine: Machine) -> None:
    """The fastest configuration is not the best if its error is too large, and if no error is small enough nothing is
    recommended."""
    machine.times["quick bf16"] = 0.002
    machine.errors = {title: 1e-3 for title in machine.times if title.endswith("bf16")}
    result, _ = tuned(machine, accuracy=5e-4)
    (found,) = result.tunings
    assert found.best is not None
    assert (found.best.runtime, found.best.precision) == ("quick", "fp32")
    assert fates(found)["quick bf16"] == "error above 0.0005"
    assert next(each for each in found.candidates if each.precision == "bf16").error == pytest.approx(1e-3, rel=0.01)
    assert all(row.error <= 5e-4 for row in result.rows)
    result, (problem,) = tuned(machine, accuracy=1e-12)
    assert problem.exit_code == 1
    assert problem.diagnostics[0].code == "E0723"
    assert problem.diagnostics[0].message.startswith(
        f"no configuration of {NET} at batch 1 has a relative error of at most 1e-12: "
    )
    assert not result.rows
    assert result.tunings[0].best is None
    assert "No configuration completed all rounds." in report.markdown(result)


@pytest.mark.slow
def test_a_failing_configuration_does_not_stop_the_search(machine: Machine) -> None:
    """A configuration that fails does not stop the search; if all fail, the exit code is 4."""
    machine.broken = {"quick fp32", "torch-cpu:compile fp32"}
    result, problems = tuned(machine)
    assert not problems
    assert fates(result.tunings[0])["quick fp32"] == "failed: quick is broken"
    machine.broken = set(machine.times)
    result, (problem,) = tuned(machine)
    assert problem.exit_code == 4
    assert not result.rows


def test_explicit_options_are_not_varied(machine: Machine) -> None:
    """Explicitly given runtimes with options, precisions and threads are not varied."""
    result, _ = tuned(machine, runtimes=["torch-cpu:compile", "quick"], precisions=["fp32"], threads=1)
    fate_of = fates(result.tunings[0])
    assert set(fate_of) == {"torch-cpu:compile fp32", "quick fp32"}
    assert result.tunings[0].base is None
    assert "Speed-ups are relative to resnet20_cifar on torch-cpu:compile in fp32." in report.markdown(result)


@pytest.mark.slow
def test_batches(machine: Machine) -> None:
    """Each batch has its own search, and the batch with the most images per second is named only if the difference is
    significant."""
    result, _ = tuned(machine, batches=[1, 2])
    assert [found.batch for found in result.tunings] == [1, 2]
    text = report.markdown(result)
    assert "Images per second of resnet20_cifar by batch" in text
    assert re.search(r"no significant difference between batches \d and \d", text), (
        "a run of two images takes twice as long"
    )
    machine.fixed = 0.002
    text = report.markdown(tuned(machine, batches=[1, 2])[0])
    assert "; highest at batch 2." in text, "two images share the fixed time of a run"


@pytest.mark.slow
def test_the_search_is_in_the_result_file(machine: Machine, tmp_path: Path) -> None:
    """The result file contains the whole search."""
    result, _ = tuned(machine)
    path = tmp_path / "result.json"
    json_files.write(result, path)
    assert results.read(path) == result
    assert json.loads(path.read_text())["tunings"][0]["candidates"][0]["runtime"].startswith("quick")


def run(*arguments: str) -> Any:
    """Run the command."""
    return CliRunner().invoke(app, ["bench", NET, *arguments])


def test_a_search_without_an_accurate_candidate() -> None:
    """If no candidate is accurate enough, each is still listed with its fate."""
    given = (
        "--tune",
        "--runtime",
        "torch-cpu:channels_last",
        "--precision",
        "fp32",
        "--threads",
        "1",
        "--batch",
        "1,2",
    )
    done = run(*given, "--accuracy", "0", "--set", "parameters.n=1", "--set", "input=[3, 8, 8]")
    assert done.exit_code == 1
    assert "error[E0723]: no configuration of resnet20_cifar at batch 1 has" in done.stderr
    assert re.findall(r"### Fastest configuration for resnet20_cifar, batch (\d)", done.stdout) == ["1", "2"]
    assert done.stdout.count("| error above 0 |") == done.stdout.count("No configuration completed all rounds.") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--accuracy", "0.1"], "--accuracy needs --tune"),
        (["--tune", "--compare", "timm:resnet18"], "--tune and --compare cannot be used together"),
        (["--tune", "--accuracy", "-1"], "greater than or equal to 0"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    """Wrong options are reported before anything is measured."""
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.slow
def test_the_recommended_command_reproduces_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unrated: Callable[[], None]
) -> None:
    """The recommended command has the passes, settings, seed and threads of the search."""
    pytest.importorskip("onnxruntime", reason="one of the runtimes")
    path, again = tmp_path / "result.json", tmp_path / "again.json"
    given = ["--set", "parameters.n=1", "--fold-batchnorm", "--seed", "3", "--threads", "1"]
    runtimes = ["--runtime", "ort-cpu,torch-cpu:channels_last", "--precision", "fp32"]
    done = run("--tune", *runtimes, *given, "--rounds", "5", "--slot-ms", "0", "-o", str(path))
    assert done.exit_code == 0, done.output
    found = results.read(path)
    first = found.tunings[0].candidates[0]
    program, *words = shlex.split(first.command)
    assert program == "rescompile"
    done = CliRunner().invoke(app, [*words, "--rounds", "5", "--slot-ms", "0", "-o", str(again)])
    assert done.exit_code == 0, done.output
    (row,) = results.read(again).rows
    wanted = next(each for each in found.rows if each.runtime == first.runtime)
    assert row.key == wanted.key
    assert (row.sha256, row.artifact, row.passes) == (wanted.sha256, wanted.artifact, ["fold-batchnorm"])
    assert row.facts["threads"] == wanted.facts["threads"] == 1


@pytest.fixture
def unrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the roofline measurement, which takes seconds, by a constant."""
    monkeypatch.setattr(
        roofline, "measure", lambda device, precision, threads: roofline.Roofline(precision, {1 << 20: 1e10}, 1e10)
    )  # fmt: skip

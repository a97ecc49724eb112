"""Check the promises about the time and memory of compiling.

Whole processes are measured from start to exit, so that imports, weights and the written file count for every
contender. The processes run in interleaved rounds, alternately forwards and backwards, after a warm-up; a figure
is the median over rounds, and a ratio is one of medians:

- `rescompile build` against both exporters of torch.onnx on the same network, and against floor.py;
- `rescompile build` of 10,001 layers against 1,001, which shows how compiling scales with depth;
- `rescompile validate` and `show` against a process that only imports the libraries they need.

Exit code: 0 if every measured promise is kept; 1 if one is missed or a command failed; 4 if something could not
be measured because a package is missing.

    python benchmarks/compile.py --rounds 5 --json compile.json
"""

# This process imports nothing heavy: on Linux a child's peak memory starts from that of its parent at the fork, so a
# large parent would count as memory of `rescompile show`.

from __future__ import annotations

import argparse
import json
import operator
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

MIB = 2**20
HERE = Path(__file__).resolve().parent
FILE = "{file}"  # replaced by the output file in the command of a case
EXPORTED = "seconds in torch.onnx.export: "

RESNET50, DENSENET121, RESNET1001 = "resnet50", "densenet121", "preact_resnet1001_cifar"
PARAMETERS = {RESNET50: 25_557_032, DENSENET121: 7_978_856, RESNET1001: 10_327_706}
RESNET10001 = "preact_resnet10001_cifar"
DEEPER = tuple(word for row in (1, 2, 3) for word in ("--set", f"layer{row}.depth=1111"))  # 9 * 1111 + 2 = 10,001
PARAMETERS_10001 = 103_063_706

LIBRARIES = (
    "rescompile", "numpy", "onnx", "onnxscript", "pydantic", "PyYAML", "typer", "torch", "torchvision", "timm",
    "onnxruntime", "onnxruntime-gpu", "openvino",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A command to measure: arguments for this Python, required packages, and the weights its file must contain."""

    name: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()
    parameters: int = 0
    slow: bool = False


@dataclass(frozen=True)
class Sample:
    """One run of a case; `export_seconds` is the part spent in torch.onnx.export."""

    seconds: float
    peak_bytes: int
    file_bytes: int
    export_seconds: float | None


Samples = dict[str, list[Sample]]


class CaseError(Exception):
    """A command failed or did not write what it should."""


# --- cases


def cases(declare_operators: bool) -> Iterator[Case]:
    """Yield all commands in the order of a round."""
    for network, parameters in PARAMETERS.items():
        yield build(network, network, (), parameters)
        for exporter in ("default", "legacy"):
            declare = ("--declare-operators",) * declare_operators
            command = (str(HERE / "compile.py"), "--export", network, exporter, FILE, *declare)
            needs = ("torch",) if network == RESNET1001 else ("torch", "torchvision")
            slow = (network, exporter) == (RESNET1001, "default")
            yield Case(f"{network} {exporter} exporter", command, needs, parameters, slow)
        yield Case(f"{network} floor", (str(HERE / "floor.py"), str(parameters), FILE), (), parameters)
    yield build(RESNET10001, RESNET1001, DEEPER, PARAMETERS_10001)
    yield Case("densenet201 validate", ("-m", "rescompile", "validate", "densenet201"), ("rescompile",))
    yield Case("densenet201 show", ("-m", "rescompile", "show", "densenet201"), ("rescompile",))
    # `import pydantic` alone is lazy; these are the names that rescompile's models import.
    yield Case(
        "imports",
        ("-c", "import typer, yaml; from pydantic import BaseModel, RootModel, ValidationError, WithJsonSchema"),
    )


def build(name: str, spec: str, options: tuple[str, ...], parameters: int) -> Case:
    """Return the case of `rescompile build` for one spec."""
    command = ("-m", "rescompile", "build", spec, *options, "--target", "onnx", "-o", FILE)
    return Case(f"{name} build", command, ("rescompile",), parameters)


@dataclass(frozen=True)
class Promise:
    """A figure computed from the samples of two cases, and its bound."""

    text: str
    case: str
    against: str
    figure: Callable[[list[Sample], list[Sample]], float]
    sign: str
    bound: float
    unit: str = "x"

    def kept(self, measured: float) -> bool:
        """Return whether a figure is within the bound."""
        return bool({">=": operator.ge, "<=": operator.le, "<": operator.lt}[self.sign](measured, self.bound))


def seconds(samples: list[Sample]) -> float:
    """Return the median wall time."""
    return statistics.median(sample.seconds for sample in samples)


def peak_mib(samples: list[Sample], _: list[Sample] | None = None) -> float:
    """Return the highest peak of all rounds, since a bound on memory applies to every run."""
    return max(sample.peak_bytes for sample in samples) / MIB


def speedup(ours: list[Sample], theirs: list[Sample]) -> float:
    """Return how many times faster ours is."""
    return seconds(theirs) / seconds(ours)


def cost(ours: list[Sample], base: list[Sample]) -> float:
    """Return how many times longer ours takes."""
    return seconds(ours) / seconds(base)


def faster(network: str, bound: float) -> Promise:
    """Return the promise to be this many times faster than the default exporter."""
    text = f"{network}: faster than the default exporter"
    return Promise(text, f"{network} build", f"{network} default exporter", speedup, ">=", bound)


MEMORY = 4 * PARAMETERS[RESNET50] / MIB + 100
PROMISES = (
    faster(RESNET50, 15),
    Promise("resnet50: time of the floor", "resnet50 build", "resnet50 floor", cost, "<=", 1.5),
    Promise("resnet50: peak, weights + 100 MiB", "resnet50 build", "resnet50 build", peak_mib, "<=", MEMORY, " MiB"),
    faster(DENSENET121, 30),
    faster(RESNET1001, 100),
    Promise("10,001 layers: time of 1,001", f"{RESNET10001} build", f"{RESNET1001} build", cost, "<=", 12),
    Promise("validate densenet201: time of imports", "densenet201 validate", "imports", cost, "<", 2),
    Promise("show densenet201: time of imports", "densenet201 show", "imports", cost, "<", 2),
)


# --- measuring


def measure(case: Case) -> Sample:
    """Run a case once, in a new empty folder, so that only installed packages and no old files are used."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory(prefix="compile-benchmark-") as name, tempfile.TemporaryFile() as log:
        folder = Path(name)
        command = [sys.executable, *(str(folder / "model.onnx") if word == FILE else word for word in case.arguments)]
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        elapsed = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        output = log.read().decode(errors="replace").splitlines()
        if process.returncode:
            raise CaseError("\n    ".join([f"exit code {process.returncode}", *output[-8:]]))
        written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    # Exporters may fold batch norm into convolutions (1.5% of the values of ResNet-1001), but must not omit weights.
    if written < 0.95 * 4 * case.parameters:
        raise CaseError(f"wrote {written:,} bytes, fewer than {case.parameters:,} float32 weights take")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    exported = [float(line.removeprefix(EXPORTED)) for line in output if line.startswith(EXPORTED)]
    return Sample(elapsed, peak, written, exported[0] if exported else None)


def run(chosen: list[Case], rounds: int, slow_rounds: int) -> tuple[Samples, dict[str, str]]:
    """Measure all cases in interleaved rounds, without a warm-up for slow ones. A case that fails is not run again."""
    samples: Samples = {}
    failed: dict[str, str] = {}
    for turn in range(-1, max(rounds, slow_rounds)):
        for case in chosen if turn % 2 else reversed(chosen):
            last = slow_rounds if case.slow else rounds
            if case.name in failed or turn >= last or (case.slow and turn < 0):
                continue
            label = f"round {turn + 1} of {last}" if turn >= 0 else "warm-up"
            try:
                sample = measure(case)
            except CaseError as error:
                failed[case.name] = str(error)
                samples.pop(case.name, None)
                say(f"{label}: {case.name}: FAILED, {error}")
                continue
            say(f"{label}: {case.name}: {sample.seconds:.2f} s")
            if turn >= 0:
                samples.setdefault(case.name, []).append(sample)
    return samples, failed


def say(text: str) -> None:
    """Print progress to stderr, so that stdout contains only the tables."""
    print(text, file=sys.stderr, flush=True)


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically, so that an interruption leaves either the old or the new one."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(json.dumps(record, indent=1) + "\n")
    beside.replace(path)


# --- the machine


def probe(code: str) -> str | None:
    """Run a line of Python in a separate process; return None if it works, else the last line of its error output."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1] if done.returncode else None


def missing_packages() -> tuple[dict[str, str], bool]:
    """Return the unusable packages with the reasons, and whether torchvision needs its operators declared."""
    found = {
        "rescompile": probe("import rescompile.cli, rescompile.backends"),
        "torch": probe("import torch.onnx, onnxscript"),
        "torchvision": probe("import torchvision"),
    }
    declare = found["torchvision"] is not None and found["rescompile"] is None
    if declare and found["torch"] is None:
        found["torchvision"] = probe(
            "from rescompile.bench import torchvision_operators; torchvision_operators.declare(); import torchvision"
        )
    return {package: reason for package, reason in found.items() if reason}, declare


def machine() -> dict[str, Any]:
    """Describe the machine."""
    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in read_lines(info) if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": platform.platform(),
        "load_average_before": list(os.getloadavg()),
        "python": platform.python_version(),
        "libraries": {library: version(library) for library in LIBRARIES},
    }


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file, or none if it does not exist."""
    return path.read_text().splitlines() if path.exists() else []


def version(library: str) -> str | None:
    """Return the installed version, or None."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


# --- the exporters, which run in the measured process


def export(network: str, exporter: str, path: str, declare: bool) -> None:
    """Export a network to `path` with the default or the legacy exporter, as torch documents it."""
    import torch

    if declare:
        from rescompile.bench import torchvision_operators  # imports nothing else into the measured process

        torchvision_operators.declare()
    model, example = peer(network)
    start = time.perf_counter()
    torch.onnx.export(model.eval(), (example,), path, dynamo=exporter == "default")
    print(f"\n{EXPORTED}{time.perf_counter() - start:.3f}")


def peer(network: str) -> tuple[nn.Module, torch.Tensor]:
    """Return the network as a torch user would build it, with random weights, and an example input."""
    import torch

    if network == RESNET1001:
        return preact_resnet(111), torch.randn(1, 3, 32, 32)
    import torchvision

    return torchvision.models.get_model(network, weights=None), torch.randn(1, 3, 224, 224)


def preact_resnet(units: int) -> nn.Module:
    """Build the pre-activation ResNet for CIFAR-10 (He et al. 2016) with 9 * units + 2 layers, as written by hand."""
    import torch
    from torch import nn

    class Unit(nn.Module):
        """BN-relu-conv, three times, plus the input; a unit that changes channels shares its first BN-relu."""

        def __init__(self, channels: int, width: int, stride: int) -> None:
            super().__init__()
            self.bn1 = nn.BatchNorm2d(channels)
            self.conv1 = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
            self.bn3 = nn.BatchNorm2d(width)
            self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
            changes = channels != 4 * width
            self.shortcut = nn.Conv2d(channels, 4 * width, 1, stride, bias=False) if changes else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = torch.relu(self.bn1(x))
            identity = x if self.shortcut is None else self.shortcut(out)
            out = self.conv1(out)
            out = self.conv2(torch.relu(self.bn2(out)))
            out = self.conv3(torch.relu(self.bn3(out)))
            return identity + out

    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False)]
    channels = 16
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        for index in range(units):
            layers.append(Unit(channels, width, stride if index == 0 else 1))
            channels = 4 * width
    tail = (nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    model = nn.Sequential(*layers, *tail)
    count = sum(parameter.numel() for parameter in model.parameters())
    expected = {111: PARAMETERS[RESNET1001], 1111: PARAMETERS_10001}.get(units, count)
    assert count == expected, f"{count:,} parameters instead of {expected:,}"
    return model


# --- reporting


def verdicts(samples: Samples, failed: dict[str, str], unmeasured: dict[str, str]) -> list[dict[str, Any]]:
    """Return each promise with its figure, bound and verdict: ok, MISSED, FAILED, or why it was not measured."""
    rows = []
    for promise in PROMISES:
        names = (promise.case, promise.against)
        row: dict[str, Any] = {"promise": promise.text, "measured": None, "sign": promise.sign, "bound": promise.bound}
        row["unit"] = promise.unit
        if all(name in samples for name in names):
            row["measured"] = promise.figure(samples[promise.case], samples[promise.against])
            row["verdict"] = "ok" if promise.kept(row["measured"]) else "MISSED"
        elif any(name in failed for name in names):
            row["verdict"] = "FAILED"
        else:
            row["verdict"] = next(unmeasured[name] for name in names if name in unmeasured)
        rows.append(row)
    return rows


def sample_table(samples: Samples) -> str:
    """Return the table of measurements, one line per case."""
    lines = [
        f"{'process':<41}{'rounds':>6}{'median':>11}{'lowest':>11}{'highest':>11}{'peak memory':>15}{'export alone':>14}"
    ]
    for name, rows in samples.items():
        times = [row.seconds for row in rows]
        inner = [row.export_seconds for row in rows if row.export_seconds is not None]
        cells = "".join(f"{value:>9.3f} s" for value in (statistics.median(times), min(times), max(times)))
        alone = f"{statistics.median(inner):>12.3f} s" if inner else ""
        lines.append(f"{name:<41}{len(rows):>6}{cells}{peak_mib(rows):>11.1f} MiB{alone}".rstrip())
    return "\n".join(lines)


def promise_table(rows: list[dict[str, Any]]) -> str:
    """Return the table of promises, one line each."""
    lines = [f"{'promise':<60}{'measured':>12}{'bound':>15}  verdict"]
    for row in rows:
        measured = "-" if row["measured"] is None else f"{row['measured']:.2f}{row['unit']}"
        bound = f"{row['sign']} {row['bound']:.4g}{row['unit']}"
        lines.append(f"{row['promise']:<60}{measured:>12}{bound:>15}  {row['verdict']}")
    return "\n".join(lines)


def chosen(names: Sequence[str], only: Sequence[str] | None) -> list[str]:
    """Return the requested measurements. Exit with 2 if there are none, as a run of none would keep every promise."""
    found = [name for name in names if not only or any(text in name for text in only)]
    if not found:
        say(f"error: --only {' --only '.join(only or ())} is in the name of none of: {', '.join(names)}")
        raise SystemExit(2)
    return found


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds after the warm-up (5)")
    parser.add_argument("--slow-rounds", type=int, default=1, metavar="N", help="rounds of what takes minutes (1)")
    parser.add_argument("--skip-slow", action="store_true", help="leave out what takes minutes")
    parser.add_argument("--only", action="append", metavar="TEXT", help="only processes with TEXT in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples and the machine to FILE")
    parser.add_argument("--export", nargs=3, help=argparse.SUPPRESS)  # NETWORK EXPORTER FILE: measured process
    parser.add_argument("--declare-operators", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1 or options.slow_rounds < 1:
        parser.error("there must be at least one round (to leave out the slow process: --skip-slow)")
    return options


def main() -> int:
    """Measure, print both tables, write the JSON file, and return the exit code."""
    options = arguments()
    if options.export:
        export(*options.export, declare=options.declare_operators)
        return 0
    described = machine()
    missing, declare = missing_packages()
    for package, reason in missing.items():
        say(f"{package} cannot be used by {sys.executable}: {reason}\n  what needs it is not measured")
    everything = list(cases(declare))
    wanted = chosen([case.name for case in everything], options.only)
    measured, unmeasured = [], {}
    for case in everything:
        absent = [package for package in case.needs if package in missing]
        if (case.slow and options.skip_slow) or case.name not in wanted:
            unmeasured[case.name] = "skipped"
        elif absent:
            unmeasured[case.name] = f"not measured: no {absent[0]}"
        else:
            measured.append(case)
    samples, failed = run(measured, options.rounds, options.slow_rounds)
    samples = {case.name: samples[case.name] for case in measured if case.name in samples}
    rows = verdicts(samples, failed, unmeasured)
    print(sample_table(samples), promise_table(rows), sep="\n\n")
    if options.json:
        own_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        record = {
            "machine": {**described, "load_average_after": list(os.getloadavg())},
            "commands": {
                case.name: ["python", *(word.replace(str(HERE), "benchmarks") for word in case.arguments)]
                for case in measured
            },
            "samples": {name: [asdict(sample) for sample in measured] for name, measured in samples.items()},
            "peak_bytes_of_the_benchmark_itself": own_peak,
            "failed": failed,
            "not_measured": unmeasured,
            "promises": rows,
        }
        write(options.json, record)
    if failed or any(row["verdict"] == "MISSED" for row in rows):
        return 1
    return 0 if set(unmeasured.values()) <= {"skipped"} else 4


if __name__ == "__main__":
    sys.exit(main())

"""The result files of a report: those of `bench` and of `verify --json`, each matched with its network by the SHA-256 of the spec."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rescompile.bench import results
from rescompile.bench.json_files import LARGEST
from rescompile.bench.results import BenchRow, Result
from rescompile.diagnostics.errors import Place, Source, UsageError, clipped
from rescompile.files.file_types import check_file
from rescompile.ir.network import LOGITS, Network, walk
from rescompile.records import record

#: The command that writes such a file.
COMMAND = "rescompile verify SPEC --parts --json"


@record
class Verdict:
    """A target or runtime in the output of `verify --json`. An error is infinite where the output is not finite; `parts` has the error
    after each part of the network, if they were requested, and `first` the first part that differs."""

    passed: bool
    target: str
    first: str | None
    error: float
    parts: Mapping[str, float]
    precision: str = "fp32"
    bound: float = math.inf

    @classmethod
    def of(cls, row: Any) -> Verdict:
        """Return the verdict in a row. Raises KeyError, TypeError or ValueError if the row is not a verdict."""
        parts = {part: _error(value) for part, value in (row.get("parts") or {}).items()}
        numbers = _error(row["error"]), parts, row.get("precision", "fp32"), _error(row.get("bound"))
        found = cls(row["passed"], row["runtime"] or row["target"], row["first"], *numbers)
        if (type(found.passed), type(found.target), type(found.precision)) != (bool, str, str):
            raise TypeError
        if not isinstance(found.first, str | None):
            raise TypeError
        return found


@record
class Verdicts:
    """What a file reports of one network. `sha256` is the digest of its spec; None in files of earlier versions."""

    file: str
    name: str
    sha256: str | None
    verdicts: tuple[Verdict, ...]

    def check(self, network: Network) -> None:
        """Raise UsageError unless this is the network that was verified: by its spec if the file has it, else by its names."""
        known = {LOGITS, *(path for path, _ in walk(network.root))}
        mentioned = {name for each in self.verdicts for name in (each.first, *each.parts) if name}
        same = network.sha256 == self.sha256 if self.sha256 is not None else known.issuperset(mentioned)
        if self.name != network.name or not same:
            other = "with another spec" if self.name == network.name else f"not of {network.name}"
            message = f"{self.file} is the result of {clipped(self.name)}, {other}"
            raise UsageError.of("E0811", message, help=f"'{COMMAND}' prints one")


@record
class BenchFile:
    """A result file of `bench`."""

    file: str
    result: Result

    def names(self) -> set[str]:
        """Return the networks of the zoo or of specs that it has rows of."""
        return {row.model for row in self.result.rows if row.sha256 is not None}


ResultFile: TypeAlias = BenchFile | Verdicts


@record
class Timing:
    """A row of `bench` with the file and the machine that it comes from."""

    row: BenchRow
    file: str
    machine: str
    measured: str


@record
class Verified:
    """A verdict of `verify` with the file that it comes from."""

    verdict: Verdict
    file: str


@record
class Measurements:
    """What the result files have on one network."""

    timings: tuple[Timing, ...] = ()
    verdicts: tuple[Verified, ...] = ()


def read(file: str) -> ResultFile:
    """Read a result file of either kind. Raises UsageError with the location of every error."""
    check_file(file)
    return read_verdicts(file) if _is_of_verify(Path(file)) else BenchFile(file, results.read(Path(file)))


def read_verdicts(file: str) -> Verdicts:
    """Read the output of `verify --json`. Raises UsageError if the file is something else."""
    check_file(file)
    if Path(file).stat().st_size > LARGEST:
        raise UsageError.of("E0820", f"{clipped(file)} is larger than {LARGEST >> 20} MiB")
    text, place = "", None
    try:
        text = Path(file).read_text("utf-8")
        data = json.loads(text)
        verdicts = tuple(Verdict.of(row) for row in data["targets"])
        sha256 = data.get("sha256")
        if verdicts and isinstance(data["name"], str) and isinstance(sha256, str | None):
            return Verdicts(file, data["name"], sha256, verdicts)
    except json.JSONDecodeError as error:
        place = Place.at(Source(file, text), min(error.pos, max(len(text) - 1, 0)))
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
        pass
    message = f"{clipped(file)} is not the output of 'rescompile verify --json'"
    raise UsageError.of("E0820", message, place, help=f"'{COMMAND}' prints it")


def _error(value: Any) -> float:
    """Return an error as JSON has it, in which null stands for what is not finite. Raises ValueError if no error is like this."""
    error = math.inf if value is None else float(value)
    if isinstance(value, bool) or not error >= 0:
        raise ValueError
    return error


def _is_of_verify(path: Path) -> bool:
    """Return whether a file has the outermost key of `verify --json`. What cannot be read is left to the reader of `bench`,
    which locates its errors."""
    try:
        data = json.loads(path.read_text("utf-8")) if path.stat().st_size <= LARGEST else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and "targets" in data and "bench" not in data


def of_network(network: Network, files: Sequence[ResultFile]) -> Measurements:
    """Return what the files have on a network."""
    timings = [
        Timing(row, each.file, _machine(each.result), each.result.measured)
        for each in files
        if isinstance(each, BenchFile)
        for row in each.result.rows
        if row.sha256 == network.sha256
    ]
    found = [
        Verified(verdict, each.file)
        for each in files
        if isinstance(each, Verdicts) and each.name == network.name and each.sha256 in (network.sha256, None)
        for verdict in each.verdicts
    ]
    return Measurements(tuple(timings), tuple(found))


def check_all_used(files: Iterable[ResultFile], networks: Sequence[Network]) -> None:
    """Raise UsageError for a file without a result of any of these networks."""
    listed = ", ".join(network.name for network in networks)
    for each in files:
        if isinstance(each, Verdicts):
            same = next((network for network in networks if network.name == each.name), networks[0])
            each.check(same)
        elif not any(row.sha256 == network.sha256 for row in each.result.rows for network in networks):
            message = f"{each.file} has no result of {listed} with this spec"
            help = f"it has results of {clipped(', '.join(sorted(each.names())) or 'other libraries only')}"
            raise UsageError.of("E0811", message, help=help)


def _machine(result: Result) -> str:
    """Return the processor and the GPUs, in a few words."""
    processor = result.machine.get("processor")
    gpus = result.machine.get("gpus")
    names = [processor.get("name")] if isinstance(processor, dict) else []
    names += [gpu.get("name") for gpu in gpus if isinstance(gpu, dict)] if isinstance(gpus, list) else []
    return ", ".join(str(name) for name in names if name) or "an unknown machine"

"""The result files of a report: those of `bench` and of `verify --json`, each matched with its network by the SHA-256 of the spec."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from rescompile.bench import results
from rescompile.bench.json_files import LARGEST
from rescompile.bench.results import BenchRow, Result
from rescompile.diagnostics.errors import Diagnostic, UsageError, clipped
from rescompile.files.file_types import check_file
from rescompile.ir.network import Network
from rescompile.records import record
from rescompile.report import verdicts
from rescompile.report.verdicts import Verdict, Verdicts


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
    return verdicts.read(file) if _is_of_verify(Path(file)) else BenchFile(file, results.read(Path(file)))


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
            raise UsageError(Diagnostic("E0811", message, help=help))


def _machine(result: Result) -> str:
    """Return the processor and the GPUs, in a few words."""
    processor = result.machine.get("processor")
    gpus = result.machine.get("gpus")
    names = [processor.get("name")] if isinstance(processor, dict) else []
    names += [gpu.get("name") for gpu in gpus if isinstance(gpu, dict)] if isinstance(gpus, list) else []
    return ", ".join(str(name) for name in names if name) or "an unknown machine"

"""Reads the output of `verify --json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rescompile.bench.json_files import LARGEST
from rescompile.diagnostics.errors import Diagnostic, Place, Source, UsageError, clipped
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
            raise UsageError(Diagnostic("E0811", message, help=f"'{COMMAND}' prints one"))


def read(file: str) -> Verdicts:
    """Read the output of `verify --json`. Raises UsageError if the file is something else."""
    check_file(file)
    if Path(file).stat().st_size > LARGEST:
        raise UsageError(Diagnostic("E0820", f"{clipped(file)} is larger than {LARGEST >> 20} MiB"))
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
    raise UsageError(Diagnostic("E0820", message, place, help=f"'{COMMAND}' prints it"))


def _error(value: Any) -> float:
    """Return an error as JSON has it, in which null stands for what is not finite. Raises ValueError if no error is like this."""
    error = math.inf if value is None else float(value)
    if isinstance(value, bool) or not error >= 0:
        raise ValueError
    return error

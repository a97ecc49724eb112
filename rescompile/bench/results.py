"""The result file: JSON with every sample and all that is needed to doubt it, or to measure it again.

The dataclasses below are the format. The schema (docs/bench.schema.json) and the reader are made from them, so the three
cannot disagree; a file that does not fit is refused with the place of what is wrong.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rescompile.bench import statistics
from rescompile.bench.statistics import Interval, Samples, Summary
from rescompile.diagnostics.errors import Diagnostic, Place, Source, UsageError, nearest
from rescompile.files import file_types
from rescompile.files.checksum import sealed
from rescompile.files.output import write_text

FORMAT = 1
#: A larger file is not read: a result with a million samples takes a fifth of this.
LARGEST = 100 << 20


@dataclass(frozen=True, slots=True)
class Share:
    """What one part of the network takes: of the time of a profiled run, and of all multiply-adds."""

    part: str
    seconds: float
    time: float
    macs: float


@dataclass(frozen=True, slots=True)
class Roofline:
    """The least time that the device allows for the layers of a network, in seconds, and how much of it the median reaches;
    by its measured bandwidth for large copies in bytes per second, and its rate of matrix products in operations per second.
    """

    limit: float
    fraction: float
    bandwidth: float
    rate: float


@dataclass(frozen=True, slots=True)
class Row:
    """One network on one runtime, in one precision and batch. Times are in seconds.

    `sha256` is that of the spec, `artifact` that of the ONNX file which ran, if one did. `samples` are rounds of runs, in
    the order in which they were measured, of one sitting after the other; rows of one group shared these rounds. `error` is the relative error of what
    was timed against float64, and `bound` what it may be. `before` and `after` are the state of the device.
    """

    group: str
    model: str
    runtime: str
    precision: str
    batch: int
    sha256: str | None
    artifact: str | None
    passes: list[str]
    parameters: int
    macs: int
    build: float
    first: float
    warm_up: int
    settled: bool
    samples: list[list[float]]
    summary: Summary
    error: float
    bound: float
    facts: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]
    roofline: Roofline | None = None
    profile: list[Share] | None = None
    again: list[str] = field(default_factory=list)
    sittings: int = 1

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What a row is of: rows of two files with one key are of the same work."""
        return self.group, self.model, self.runtime, self.precision, self.batch

    @property
    def title(self) -> str:
        """`resnet50 on ort-cpu, fp32, batch 8`."""
        return f"{self.model} on {self.runtime}, {self.precision}, batch {self.batch}"

    @property
    def times(self) -> Samples:
        """The samples as an array."""
        return statistics.table(self.samples, self.sittings)


@dataclass(frozen=True, slots=True)
class Control:
    """A contender against a second copy of itself, prepared and timed like any other: the ratio of their medians, which
    nothing but noise moves from 1."""

    group: str
    batch: int
    row: str
    ratio: Interval
    samples: list[list[float]]


@dataclass(frozen=True, slots=True)
class Missing:
    """What was asked for and has no row, and why."""

    runtime: str
    precision: str
    why: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a network that was tried. `fate` says what became of it, `seconds` is the median of its last rounds, or
    the shortest of a few runs where it had none; `command` measures it again."""

    runtime: str
    precision: str
    fate: str
    command: str
    rounds: int = 0
    seconds: float | None = None
    error: float | None = None


@dataclass(frozen=True, slots=True)
class Tuning:
    """The search for the fastest way of a group, whose relative error against float64 is at most `accuracy`. `base` is the
    runtime whose eager run in fp32 speed-ups are over. `best` is None where several cannot be told apart. The candidates
    that were measured to the end come first, the fastest before all."""

    group: str
    batch: int
    accuracy: float
    base: str | None
    best: Candidate | None
    candidates: list[Candidate]


@dataclass(frozen=True, slots=True)
class Result:
    """What one command measured. `interrupted` says that it was stopped before its end; the rows that it had are here."""

    bench: int
    version: str
    measured: str
    command: list[str]
    machine: dict[str, Any]
    options: dict[str, Any]
    rows: list[Row]
    controls: list[Control] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    interrupted: bool = False
    tunings: list[Tuning] = field(default_factory=list)

    def control(self, row: Row) -> Interval | None:
        """The control of the group that a row belongs to."""
        found = (c.ratio for c in self.controls if (c.group, c.batch) == (row.group, row.batch))
        return next(found, None)


# --- writing ----------------------------------------------------------------------------------------------------------


def write(result: Any, path: Path, force: bool = False) -> None:
    """Write a result or another file of dataclasses. Raises OutputError where it cannot be written, or the file there is not ours."""
    write_text(text(result), path, force)


def plain(result: Any) -> dict[str, Any]:
    """The result as what JSON holds."""
    return dataclasses.asdict(result)


def text(result: Any) -> Iterator[bytes | memoryview]:
    """The result as JSON, its last key a comment that holds the seal."""
    body = _laid_out(plain(result)).removesuffix("\n}")
    return sealed([body.encode()], b',\n  "$comment": "', b": ", b'"\n}\n')


def _laid_out(value: Any, indent: str = "") -> str:
    """JSON whose lists of numbers stand on one line each: thousands of samples are not read one below the other."""
    inner = f"{indent}  "
    if isinstance(value, Mapping) and value:
        items = (f"{inner}{json.dumps(key)}: {_laid_out(item, inner)}" for key, item in value.items())
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, list | Mapping) for item in value):
        return "[\n" + ",\n".join(inner + _laid_out(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False)


# --- reading ----------------------------------------------------------------------------------------------------------


def read(path: Path) -> Result:
    """Read a result file. Raises UsageError with every place that is wrong."""
    help = "rescompile bench -o FILE writes result files"
    made: Result = document(path, Result, "bench", FORMAT, "result file", help, _samples)
    return made


def _samples(result: Result, wrong: _Wrong) -> None:
    """Samples of which statistics can be taken."""
    for number, row in enumerate(result.rows):
        try:
            statistics.table(row.samples, row.sittings)
        except ValueError as error:
            wrong(("rows", number, "samples"), str(error))


def document(
    path: Path, wanted: Any, key: str, format: int, what: str, help: str, check: Callable[[Any, _Wrong], None] | None = None
) -> Any:  # fmt: skip
    """Read a JSON file of a dataclass whose `key` holds the version of its format. `check` tells what else is wrong. Raises
    UsageError with every place that is wrong."""
    file_types.check_file(path)
    if path.stat().st_size > LARGEST:
        raise UsageError(Diagnostic("E0820", f"{path} has more than {LARGEST >> 20} MiB"))
    try:
        content = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise UsageError(Diagnostic("E0820", f"{path} is no {what}, which is text", help=help)) from None
    except OSError as error:
        raise UsageError(Diagnostic("E0820", f"{path} cannot be read: {error.strerror}")) from None
    source = Source(str(path), content)
    try:
        data = json.loads(content, parse_constant=_no_constant, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        place = Place.at(source, min(error.pos, max(len(content) - 1, 0)))
        raise UsageError(Diagnostic("E0820", f"this is not JSON: {error.msg.lower()}", place)) from None
    except (ValueError, RecursionError) as error:
        brief = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError(Diagnostic("E0820", f"{path} is no {what}: {brief}")) from None
    if not isinstance(data, dict) or data.get(key) != format:
        found = data.get(key) if isinstance(data, dict) else None
        why = (
            f"it has no key '{key}'" if found is None else f"it is of format {str(found)[:20]}, and this reads {format}"
        )
        raise UsageError(Diagnostic("E0820", f"{path} is no {what} that can be read: {why}", help=help))
    data.pop("$comment", None)
    problems: list[Diagnostic] = []

    def wrong(where: _Path, message: str, help: str | None = None) -> None:
        problems.append(Diagnostic("E0820", message, _place(source, where), help=help))

    made = _parsed(wanted, data, (), wrong)
    if not problems and check is not None:
        check(made, wrong)
    if problems:
        raise UsageError(problems[:20])
    return made


def _no_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key '{next(name for name in names if names.count(name) > 1)}' is given twice")
    return made


_Path = tuple[str | int, ...]
_Wrong = Callable[..., None]


def _parsed(wanted: Any, value: Any, where: _Path, wrong: Any) -> Any:
    """The value as an instance of a type; what does not fit is told to `wrong`."""
    if wanted is Any:
        return value
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is types.UnionType:  # a type or None
        return None if value is None else _parsed(arguments[0], value, where, wrong)
    if dataclasses.is_dataclass(wanted):
        return _record(wanted, value, where, wrong)
    if origin is list and isinstance(value, list):
        if arguments[0] is float and all(type(item) is float for item in value):
            return value  # samples are many
        return [_parsed(arguments[0], item, (*where, number), wrong) for number, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return value
    if origin is None:
        if type(value) is wanted:
            if wanted is not float or math.isfinite(value):
                return value
        elif wanted is float and type(value) is int and abs(value) < 1 << 53:
            return float(value)
    wrong(where, f"this is {_WORDS[type(value)]}, and {_WORDS[origin or wanted]} is wanted")
    return None


_WORDS = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "a mapping",
    type(None): "null",
}  # fmt: skip


def _record(wanted: Any, value: Any, where: _Path, wrong: Any) -> Any:
    if not isinstance(value, dict):
        wrong(where, f"this is {_WORDS[type(value)]}, and a mapping is wanted")
        return None
    kinds = _kinds(wanted)
    for key in value:
        if key not in kinds:
            wrong((*where, key), f"unknown key '{key[:60]}'", nearest(key, kinds))
    made = {}
    for name, kind in kinds.items():
        if name in value:
            made[name] = _parsed(kind, value[name], (*where, name), wrong)
        elif name in _required(wanted):
            wrong(where, f"the key '{name}' is missing")
            made[name] = None
    return wanted(**made)


def _kinds(wanted: Any) -> dict[str, Any]:
    """The types of the fields of a dataclass."""
    return typing.get_type_hints(wanted)


def _required(wanted: Any) -> frozenset[str]:
    """The fields of a dataclass that have no default."""
    missing = dataclasses.MISSING
    fields = dataclasses.fields(wanted)
    return frozenset(f.name for f in fields if f.default is missing and f.default_factory is missing)


def _place(source: Source, path: _Path) -> Place:
    """Where a value stands in the text, found by reading up to it again: only a mistake needs that."""
    text, decoder = source.text, json.JSONDecoder()

    def skip(at: int) -> int:
        while at < len(text) and text[at] in " \t\r\n,:":
            at += 1
        return at

    at = skip(0)
    for step in path:
        at = skip(at + 1)  # past the bracket
        number = 0
        while text[at] not in "]}":
            if isinstance(step, str):
                key, at = decoder.raw_decode(text, at)
                at = skip(at)
                if key == step:
                    break
            elif number == step:
                break
            _, at = decoder.raw_decode(text, at)
            at = skip(at)
            number += 1
    return Place.at(source, at)


# --- the schema -------------------------------------------------------------------------------------------------------


def schema() -> dict[str, Any]:
    """The JSON Schema of result files, in draft 7."""
    definitions: dict[str, Any] = {}
    root = _schema(Result, definitions)
    made = definitions.pop(root["$ref"].rpartition("/")[2])
    made["properties"]["bench"] = {"const": FORMAT, "description": "the version of this format"}
    made["properties"]["$comment"] = {"type": "string"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"result of rescompile bench, format {FORMAT}",
        **made,
        "definitions": definitions,
    }


def schema_text() -> str:
    """The schema as its file has it."""
    return json.dumps(schema(), indent=2) + "\n"


def _schema(wanted: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if wanted is Any:
        return {}
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is types.UnionType:
        return {"anyOf": [_schema(arguments[0], definitions), {"type": "null"}]}
    if origin is list:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if dataclasses.is_dataclass(wanted):
        kind: type[Any] = wanted  # type: ignore[assignment]
        name = kind.__name__
        if name not in definitions:
            definitions[name] = {}  # it may hold itself
            definitions[name] = {
                "type": "object",
                "description": " ".join((kind.__doc__ or "").split()),
                "properties": {key: _schema(value, definitions) for key, value in _kinds(kind).items()},
                "required": [key for key in _kinds(kind) if key in _required(kind)],
                "additionalProperties": False,
            }
        return {"$ref": f"#/definitions/{name}"}
    names = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object"}
    return {"type": names[origin or wanted]}


def rows_of(result: Result, group: str, batch: int) -> Sequence[Row]:
    """The rows that were measured in the same rounds."""
    return [row for row in result.rows if (row.group, row.batch) == (group, batch)]


def groups(result: Result) -> list[tuple[str, int]]:
    """The groups of a result, in order: what was compiled, and the batch."""
    return list(dict.fromkeys((row.group, row.batch) for row in result.rows))

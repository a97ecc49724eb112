"""JSON files of dataclasses: written, and read with the location of every error.

pydantic reads them; it is imported when a file is read.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rescompile.diagnostics.errors import Diagnostic, Place, Source, UsageError, nearest
from rescompile.files import file_types
from rescompile.files.atomic_write import write_text
from rescompile.files.checksum import GENERATOR

#: The `__pydantic_config__` that the outermost dataclass of a file declares; nested ones inherit it.
CONFIG: Mapping[str, Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}
#: A larger file is refused, as is one with more lists, mappings and keys: each takes many times the memory of its text. A
#: result with 300,000 samples is smaller.
LARGEST, MOST_PARTS = 8 << 20, 200_000
#: The maximum number of errors reported for a file.
MOST = 20

T = TypeVar("T")
Location = tuple[str | int, ...]
#: Reports an error: its location and a message.
Wrong = Callable[[Location, str], None]


def write(document: Any, path: Path, force: bool = False) -> None:
    """Write a dataclass to a JSON file. Raises OutputError if that fails, or if rescompile did not write the existing file."""
    write_text(text(document), path, force)


def text(document: Any) -> str:
    """Return a dataclass as JSON."""
    return _layout({**dataclasses.asdict(document), "$comment": GENERATOR}) + "\n"


def _layout(value: Any, indent: str = "") -> str:
    """Return JSON in which each list of numbers is one line: a file has thousands of samples."""
    inner = f"{indent}  "
    if isinstance(value, Mapping) and value:
        items = (f"{inner}{json.dumps(key)}: {_layout(item, inner)}" for key, item in value.items())
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, list | Mapping) for item in value):
        return "[\n" + ",\n".join(inner + _layout(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False)


def read(
    path: Path, kind: type[T], key: str, format: int, what: str, help: str, check: Callable[[T, Wrong], None]
) -> T:  # fmt: skip
    """Read a JSON file of a dataclass whose `key` is the version of its format. `what` names the file in messages, `check`
    reports impossible values. Raises UsageError with the location of every error."""
    from pydantic import TypeAdapter, ValidationError
    from pydantic_core import SchemaValidator

    source = Source(str(path), _content(path, what, help))
    data = _parse(source, what)
    if not isinstance(data, dict) or data.get(key) != format:
        version = data.get(key) if isinstance(data, dict) else None
        why = f"it has no key '{key}'" if version is None else f"its format is {str(version)[:20]}, not {format}"
        raise UsageError.of("E0820", f"{path} is not a readable {what}: {why}", help=help)
    data.pop("$comment", None)
    problems: list[Diagnostic] = []

    def wrong(where: Location, message: str, help: str | None = None) -> None:
        problems.append(Diagnostic("E0820", message, _place(source, where), help=help))

    adapter = TypeAdapter(kind)
    validator = SchemaValidator(_failing_fast(adapter.core_schema))
    try:
        again = json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UsageError.of("E0820", f"{path} is not a {what}: it contains an unpaired surrogate") from None
    try:
        document: T = validator.validate_json(again)  # in JSON mode, strict mode accepts a mapping for a dataclass
    except ValidationError as error:
        parts = adapter.json_schema()
        known = {key for part in (parts, *parts["$defs"].values()) for key in part["properties"]}
        for item in sorted(error.errors(include_url=False), key=lambda item: item["type"] == "missing")[:MOST]:
            _report(item, known, wrong)  # a misspelt key first, then the missing key
    else:
        check(document, wrong)
    if problems:
        raise UsageError(problems[:MOST])
    return document


def _failing_fast(schema: Any) -> Any:
    """Return a schema of pydantic that stops at the first error of a list, which may have a million."""
    if isinstance(schema, Mapping):
        fast = {"fail_fast": True} if schema.get("type") == "list" else {}
        return {key: _failing_fast(part) for key, part in schema.items()} | fast
    return [_failing_fast(part) for part in schema] if isinstance(schema, list) else schema


def _content(path: Path, what: str, help: str) -> str:
    file_types.check_file(path)
    if path.stat().st_size > LARGEST:
        raise UsageError.of("E0820", f"{path} is larger than {LARGEST >> 20} MiB")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise UsageError.of("E0820", f"{path} is not a {what}: it is not text", help=help) from None
    except OSError as error:
        raise UsageError.of("E0820", f"{path} cannot be read: {error.strerror}") from None
    if sum(map(text.count, "[{:")) > MOST_PARTS:
        raise UsageError.of("E0820", f"{path} has more than {MOST_PARTS:,} lists, mappings and keys")
    return text


def _parse(source: Source, what: str) -> Any:
    """Return the JSON of a file. pydantic's own parser accepts NaN and takes the last of two equal keys."""
    try:
        return json.loads(
            source.text, parse_int=_integer, parse_constant=_refuse_constant, object_pairs_hook=_refuse_twins
        )
    except json.JSONDecodeError as error:
        place = Place.at(source, min(error.pos, max(len(source.text) - 1, 0)))
        raise UsageError.of("E0820", f"invalid JSON: {error.msg.lower()}", place) from None
    except (ValueError, RecursionError) as error:
        brief = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError.of("E0820", f"{source.name} is not a {what}: {brief}") from None


def _integer(text: str) -> int:
    """Return an integer that a float could hold; pydantic's parser has its own limit, and Python's can be lifted."""
    if len(text) > sys.float_info.max_10_exp:
        raise ValueError(f"it contains an integer of {len(text):,} digits")
    return int(text)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it contains {name}, which is not a number in JSON")


def _refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError(f"the key '{next(name for name in names if names.count(name) > 1)}' is given twice")
    return dict(pairs)


#: What each type of pydantic's errors expects.
_EXPECTED = {
    "string_type": "a string", "int_type": "an integer", "float_type": "a number", "finite_number": "a finite number",
    "bool_type": "true or false", "list_type": "a list", "dict_type": "a mapping", "dataclass_type": "a mapping",
}  # fmt: skip
_GIVEN = {
    str: "a string", int: "an integer", float: "a float", bool: "a Boolean", list: "a list", dict: "a mapping",
    type(None): "null",
}  # fmt: skip


def _report(item: Any, known: set[str], wrong: Callable[..., None]) -> None:
    """Report an error of pydantic."""
    where = item["loc"]
    match item["type"]:
        case "unexpected_keyword_argument":
            wrong(where, f"unknown key '{where[-1][:60]}'", nearest(where[-1], known))
        case "missing":
            wrong(where[:-1], f"the key '{where[-1]}' is missing")
        case kind:
            wrong(where, f"must be {_EXPECTED.get(kind, item['msg'])}, but is {_GIVEN[type(item['input'])]}")


def _place(source: Source, path: Location) -> Place:
    """Return the place of a value, found by reading the text up to it again, since only errors need locations."""
    text, decoder = source.text, json.JSONDecoder()

    def skip(at: int) -> int:
        while at < len(text) and text[at] in " \t\r\n,:":
            at += 1
        return at

    at = skip(0)
    for step in path:
        at = skip(at + 1)  # after the bracket
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

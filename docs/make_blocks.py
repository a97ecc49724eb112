"""Writes docs/blocks.md, the list of library blocks, from the files in rescompile/blocks.

Run `python docs/make_blocks.py` after a change to a block; tests/docs/test_docs.py fails until you do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rescompile.lang import library

PAGE = Path(__file__).parent / "blocks.md"

HEAD = """\
<!-- made by docs/make_blocks.py from rescompile/blocks; do not edit -->

# The block library

These blocks come with rescompile. Use one with `block: <word>`; see [the language](language.md#blocks) for how, and
[how to add a block](add-a-block.md) for writing your own. A block of the same word in a spec's `blocks:` takes the place
of the library's.

What the columns and lines say:

- **value** is a type, a default, or the words that are allowed. A parameter whose value is a type is required.
- **first only** means that the argument reaches the first block of a repeated row; the others get the default.
- **inline**: a macro. Its steps land in the scope around it, so it is used without a name.
- **stage**: made to be repeated. In a network row it needs `depth`.
- **members**: how the copies are called under `depth`; without it they are called 0, 1, 2 and so on.
"""


def page() -> str:
    """The whole text of docs/blocks.md."""
    blocks = library.blocks()
    index = ", ".join(f"[`{word}`](#{word})" for word in blocks)
    return f"{HEAD}\nThe blocks: {index}.\n" + "".join(f"\n{_block(word, path)}" for word, path in blocks.items())


def _block(word: str, path: Path) -> str:
    text = path.read_text("utf-8")
    return "".join(f"{line}\n" for line in _lines(word, text, yaml.safe_load(text)))


def _lines(word: str, text: str, block: dict[str, Any]) -> Iterator[str]:
    yield f"## {word}"
    yield ""
    yield f"{block['description']}."
    yield ""
    if traits := list(_traits(block)):
        yield f"Marked: {'; '.join(traits)}."
        yield ""
    parameters = block.get("parameters") or {}
    if not parameters:
        yield "No parameters."
        return
    notes = _notes(text)
    yield "| parameter | value | |"
    yield "|---|---|---|"
    for name, definition in parameters.items():
        yield f"| `{name}` | {_value(definition)} | {notes.get(name, '')} |"


def _traits(block: dict[str, Any]) -> Iterator[str]:
    if block.get("inline"):
        yield "inline"
    if block.get("stage"):
        yield "stage"
    if "members" in block:
        yield f"members `{block['members']}`"
    if "when" in block:
        yield f"empty unless `{block['when']}`"


def _value(definition: Any) -> str:
    if not isinstance(definition, dict):
        return _shown(definition) if _is_type(definition) else f"default `{_shown(definition)}`"
    parts = []
    if "default" in definition:
        parts.append(f"default `{_shown(definition['default'])}`")
    if "type" in definition:
        parts.append(f"{definition['type']}")
    if "one_of" in definition:
        parts.append("one of " + ", ".join(f"`{word}`" for word in definition["one_of"]))
    if definition.get("only") == "first":
        parts.append("first only")
    return "; ".join(parts)


def _is_type(definition: Any) -> bool:
    return definition in ("int", "real", "bool", "list", "block", "size")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace("|", "\\|")


def _notes(text: str) -> dict[str, str]:
    """The comment beside each parameter, or on the line above it."""
    notes: dict[str, str] = {}
    above = ""
    for line in text.splitlines():
        if comment := re.fullmatch(r"  #\s*(.*)", line):
            above = comment[1]
        elif entry := re.match(r"  (\w+):.*?(?:\s#\s+(.*))?$", line):
            notes.setdefault(entry[1], (entry[2] or above).replace("|", "\\|"))
            above = ""
    return notes


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")

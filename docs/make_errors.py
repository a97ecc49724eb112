"""Writes docs/errors.md, the catalogue of errors, from docs/errors.yaml and the codes in rescompile/diagnostics/codes.py.

Run `python docs/make_errors.py` after a change to either; tests/lang/test_error_catalogue.py fails until you do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from rescompile.diagnostics.codes import CODES, GROUPS

FOLDER = Path(__file__).parent
PAGE = FOLDER / "errors.md"
ENTRIES = FOLDER / "errors.yaml"

HEAD = """\
<!-- made by docs/make_errors.py from docs/errors.yaml and rescompile/diagnostics/codes.py; do not edit -->

# The errors, by code

Every message begins with the place of the mistake and a code, shows the line, and says what to write instead:

    specs/my.yaml:9:31: error[E0306]: width is [16, 32, 32]: it must be a whole number
        9 |   - layer1: {depth: 3, width: [16, 32, 32]}
          |                               ^
       help: one value per block is written {each: [...]}, and needs 'depth'

The codes are stable: one is never given another meaning. `--format json`, `github` and `sarif` write the same for machines.
The examples below are run by `tests/lang/test_error_catalogue.py`.
"""


@dataclass(frozen=True)
class Entry:
    """What the catalogue says of one code. The examples are whole specs, or command lines; `not_run` says why nobody
    runs those."""

    why: str
    wrong: str
    right: str
    commands: bool = False
    not_run: str | None = None


def entries() -> dict[str, Entry]:
    """The entries of docs/errors.yaml by code."""
    listed = yaml.safe_load(ENTRIES.read_text(encoding="utf-8"))
    return {code: Entry(**entry) for code, entry in listed.items()}


def page() -> str:
    """The whole text of docs/errors.md."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(_lines()))


def _lines() -> Iterator[str]:
    yield HEAD
    for title, exit_code, codes in _groups():
        yield f"- [{title}](#{title.lower().replace(' ', '-')}): {codes[0]} to {codes[-1]}, exit code {exit_code}"
    found = entries()
    for title, exit_code, codes in _groups():
        yield f"\n## {title}\n"
        yield f"Exit code {exit_code}.\n"
        for code in codes:
            yield f"### {code}: {CODES[code]}\n"
            if code in found:
                yield from _entry(found[code])


def _groups() -> Iterator[tuple[str, int, list[str]]]:
    for prefix, (title, exit_code) in GROUPS.items():
        yield title, exit_code, [code for code in CODES if code.startswith(prefix)]


def _entry(entry: Entry) -> Iterator[str]:
    language = "sh" if entry.commands else "yaml"
    yield f"{entry.why}\n"
    yield f"Wrong:\n\n```{language}\n{entry.wrong}```\n"
    yield f"Right:\n\n```{language}\n{entry.right}```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8", newline="\n")

"""Program -> text: a template of the backend, and the filters through which every name and value goes into it."""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from rescompile.codegen import allow_list, dialect, layout, prose
from rescompile.codegen.program import New
from rescompile.codegen.terms import python

if TYPE_CHECKING:
    from jinja2 import Template

#: The name that each import defines and its line; groups are apart by an empty line.
Imports = Sequence[Sequence[tuple[str, str]]]


def template(package: str, name: str, words: dialect.PythonDialect, imports: Imports) -> Template:
    """A template of a package, with the filters of a dialect."""
    return _compiled(package, name, words, tuple(map(tuple, imports)))


@cache
def _compiled(package: str, name: str, words: dialect.PythonDialect, imports: Imports) -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    filters: dict[str, Callable[..., Any]] = {
        "expression": words.expression,
        "made": words.made,
        "listed": words.listed,
        "copy": lambda stage: words.made(New(stage.of, stage.passed)),
        "python": python,
        "parameters": dialect.parameters,
        "numbered_name": dialect.numbered_name,
        "growth": dialect.growth,
        "counts": dialect.counts,
        "ident": ident,
        "quoted": quoted,
        "docstring": prose.docstring,
        "block": block,
        "laid_out": lambda text: "\n".join(layout.laid_out(text.split("\n"))),
        "imports": lambda text: _imports(text, imports),
    }
    environment.filters.update(filters)
    environment.tests["a"] = lambda node, kind: type(node).__name__ == kind
    return environment.from_string(resources.files(package).joinpath(name).read_text(encoding="utf-8"))


def ident(name: str) -> str:
    """A name, as Python takes it."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or keyword.iskeyword(name):
        raise allow_list.Refused(f"{name!r} is not a name")
    return name


def quoted(text: str) -> str:
    """Text between quotes, which it may not end."""
    if not text.isprintable() or '"' in text or "\\" in text:
        raise allow_list.Refused(f"{text!r} cannot stand between quotes")
    return f'"{text}"'


def block(text: str, width: int = 0) -> str:
    """Lines at an indent, without empty ones around them; the first line stands where it is put."""
    first, *more = text.strip("\n").split("\n")
    return "\n".join([first, *(" " * width + line if line else line for line in more)])


def _imports(text: str, table: Imports) -> str:
    """The imports of what a file uses."""
    used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    groups = ["\n".join(line for name, line in group if name in used) for group in table]
    return "\n\n".join(group for group in groups if group)

"""Network -> text: by a program and the template of a framework, with the filters through which names and values go into it."""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from rescompile.codegen import layout, prose
from rescompile.codegen.allow_list import Refused, check
from rescompile.codegen.dialect import Imports, PythonDialect, counts, growth, numbered_name, parameters
from rescompile.codegen.initial import initialisation
from rescompile.codegen.lowering import lower
from rescompile.codegen.planner import plan_classes
from rescompile.codegen.program import New, layers, parts
from rescompile.codegen.terms import python
from rescompile.ir.network import Network

if TYPE_CHECKING:
    from jinja2 import Template


def render_source(network: Network, words: PythonDialect, flat: bool = False, notes: Sequence[str] = ()) -> str:
    """The source of a network in a framework's words, held to what that may contain; `flat`, with a class for each block.
    `notes` are told of the network beside what the dialect does."""
    plan = plan_classes(network, words.reserved, unrolled=flat)
    program = lower(plan, words, rolls=not flat)
    needed = {type(part) for part in parts(program.classes)} | set(layers(program))
    text = _template(words).render(
        program=program,
        head=list(prose.head(network, words.title)),
        docs={of.name: prose.class_doc(of, plan, [*notes, *words.training(plan)]) for of in plan.classes},
        support=[text for part, text in words.support.items() if part in needed],
        initial=initialisation(plan, words.modules),
    )
    check(text, words.allowed)
    return text


@cache
def _template(words: PythonDialect) -> Template:
    """The template of a framework, with its filters."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    filters: dict[str, Callable[..., Any]] = {
        "expression": words.expression,
        "construction": words.construction,
        "conditional": words.conditional,
        "copy": lambda stage: words.construction(New(stage.of, stage.passed)),
        "python": python,
        "parameters": parameters,
        "numbered_name": numbered_name,
        "growth": growth,
        "counts": counts,
        "ident": ident,
        "quoted": quoted,
        "docstring": prose.docstring,
        "block": block,
        "laid_out": lambda text: "\n".join(layout.laid_out(text.split("\n"))),
        "imports": lambda text: _imports(text, words.imports),
    }
    environment.filters.update({**filters, **dict(words.filters)})
    environment.tests["a"] = lambda node, kind: type(node).__name__ == kind
    return environment.from_string(
        resources.files(words.package).joinpath("template.py.jinja").read_text(encoding="utf-8")
    )


def ident(name: str) -> str:
    """A name, as Python takes it."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or keyword.iskeyword(name):
        raise Refused(f"{name!r} is not a name")
    return name


def quoted(text: str) -> str:
    """Text between quotes, which it may not end."""
    if not text.isprintable() or '"' in text or "\\" in text:
        raise Refused(f"{text!r} cannot stand between quotes")
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

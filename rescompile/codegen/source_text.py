"""Network -> text: renders the template of a framework. Every name and value passes a filter."""

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
from rescompile.codegen.initialisation import initialisation
from rescompile.codegen.lowering import lower
from rescompile.codegen.planner import plan_classes
from rescompile.codegen.program import New, layers, parts
from rescompile.codegen.terms import python
from rescompile.ir.network import Network

if TYPE_CHECKING:
    from jinja2 import Template


def render_source(network: Network, words: PythonDialect, flat: bool = False, notes: Sequence[str] = ()) -> str:
    """The source of a network in a framework. With `flat`, each block has its own class. `notes` are paragraphs for the
    docstring of the network. Raises Refused if the text contains anything that is not on the framework's allow-list."""
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
    """The compiled template of a framework."""
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
    """A name, checked to be an identifier."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or keyword.iskeyword(name):
        raise Refused(f"{name!r} is not an identifier")
    return name


def quoted(text: str) -> str:
    """A string literal, checked to need no escapes."""
    if not text.isprintable() or '"' in text or "\\" in text:
        raise Refused(f"{text!r} would need escapes in a string literal")
    return f'"{text}"'


def block(text: str, width: int = 0) -> str:
    """Text without surrounding empty lines, indented from its second line on."""
    first, *more = text.strip("\n").split("\n")
    return "\n".join([first, *(" " * width + line if line else line for line in more)])


def _imports(text: str, table: Imports) -> str:
    """The imports that a file needs."""
    used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    groups = ["\n".join(line for name, line in group if name in used) for group in table]
    return "\n\n".join(group for group in groups if group)

"""Network -> text: renders a framework's template, which extends python_file.jinja. Filters check all names and values."""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from rescompile.codegen import docstrings, line_breaking
from rescompile.codegen.allow_list import Refused, check
from rescompile.codegen.dialect import (
    Dialect,
    Imports,
    attribute,
    count_text,
    counts,
    growth,
    numbered_name,
    parameters,
)
from rescompile.codegen.initialisation import initialisation
from rescompile.codegen.lowering import lower
from rescompile.codegen.planner import plan_classes
from rescompile.codegen.refusals import refuse_other_modules
from rescompile.codegen.scanned_rows import with_scans
from rescompile.codegen.terms import python
from rescompile.diagnostics.errors import Unavailable
from rescompile.files import checksum
from rescompile.ir.network import Network

if TYPE_CHECKING:
    from jinja2 import Template


def render_source(network: Network, words: Dialect, style: str = "classes", notes: Sequence[str] = ()) -> str:
    """Return the source of a network in a framework, in one of `lowering.STYLES`. `notes` are paragraphs for the
    docstring of the network. Raises Refused if the text contains anything that is not on the framework's allow-list,
    and Unavailable for a network that the framework does not support."""
    if network.drop_path and not words.drop_path:
        message = f"source of {words.title} has no drop-path"
        raise Unavailable.of("E0901", message, help="for evaluation alone, build with --set drop_path=null")
    refuse_other_modules(network, words)
    plan = plan_classes(network, words.reserved, unrolled=style == "flat")
    plan = with_scans(plan) if words.scans else plan
    program = lower(plan, words, style)
    text = _template(words).render(
        program=program,
        head=list(docstrings.head(network, words.title)),
        docs={
            of.name: docstrings.class_doc(of, plan, [*notes, *words.training(plan)], words.channels_last)
            for of in plan.classes
        },
        initial=initialisation(plan, words.modules) if words.modules else [],
    )
    check(text, words.allowed)
    return text


def sealed(text: str) -> bytes:
    """Return the contents of a source file: the text, and a checksum trailer as a comment."""
    return b"".join(bytes(chunk) for chunk in checksum.with_checksum([text.encode() + b"\n\n"], b"# ", b": ", b"\n"))


@cache
def _template(words: Dialect) -> Template:
    """Return the compiled template of a framework."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    loader = FunctionLoader(lambda name: resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, loader=loader)
    functions: Sequence[Callable[..., Any]] = (
        words.expression, words.refused, words.construction, words.conditional, words.value_arguments, python, sizes, ends, count_text,
        parameters, numbered_name, growth, counts, attribute, ident, quoted, docstrings.docstring, block,
    )  # fmt: skip
    filters: dict[str, Callable[..., Any]] = {
        **{function.__name__: function for function in functions},
        "copy": lambda stage: words.new(stage.of, stage.passed),
        "laid_out": lambda text: "\n".join(line_breaking.laid_out(text.split("\n"))),
        "support": lambda text: _support(text, words.support),
        "imports": lambda text: _imports(text, words.imports),
    }
    environment.filters.update({**filters, **dict(words.filters)})
    environment.tests["a"] = lambda node, kind: type(node).__name__ == kind
    return environment.from_string(resources.files(words.package).joinpath("template.py.jinja").read_text("utf-8"))


def ident(name: str) -> str:
    """Return a name, checked to be an identifier."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or keyword.iskeyword(name):
        raise Refused(f"{name!r} is not an identifier")
    return name


def sizes(listed: Sequence[int | str]) -> str:
    """Return the text of a list of numbers, and of attributes with numbers."""
    return f"[{', '.join(map(str, _read(listed)))}]"


def ends(listed: Sequence[int | str]) -> str:
    """Return the positions where ranges of these sizes end; a size is a number, or an attribute with one."""
    return range_ends(_read(listed))


def _read(listed: Sequence[int | str]) -> list[int | str]:
    """Return numbers, and the texts that read attributes."""
    return [f"self.{ident(size)}" if isinstance(size, str) else size for size in listed]


def range_ends(listed: Sequence[int | str]) -> str:
    """Return the positions where ranges of these sizes end, except the last; a size is a number, or the text of one."""
    places: list[str] = []
    total, texts = 0, []
    for size in listed[:-1]:
        if isinstance(size, str):
            texts.append(size)
        else:
            total += size
        places.append(" + ".join([*texts, *([str(total)] if total else [])]))
    return f"[{', '.join(places)}]"


def quoted(text: str) -> str:
    """Return a string literal, checked to need no escapes."""
    if not text.isprintable() or '"' in text or "\\" in text:
        raise Refused(f"{text!r} would need escapes in a string literal")
    return f'"{text}"'


def block(text: str, width: int = 0) -> str:
    """Return text without surrounding empty lines, indented from its second line on."""
    first, *more = text.strip("\n").split("\n")
    return "\n".join([first, *(" " * width + line if line else line for line in more)])


def names_in(text: str) -> set[str]:
    """Return the names in a text."""
    return {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}


def _support(text: str, table: Mapping[str, str]) -> list[str]:
    """Return the entries that a file requires from a table of functions, classes and constants."""
    used, found = names_in(text), []
    for name in reversed(list(table)):
        if name in used:
            found.append(table[name])
            used |= names_in(table[name])
    return found[::-1]


def _imports(text: str, table: Imports) -> str:
    """Return the imports that a file requires."""
    used = names_in(text)
    groups = ["\n".join(line for name, line in group if name in used) for group in table]
    return "\n\n".join(group for group in groups if group)

"""Specs and sources as HTML with their syntax in colour: one element for each line, so that a page can mark lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rescompile.drawing.svg import escaped

#: Texts longer than this are not highlighted, so that a page stays small.
LONGEST = 60_000
#: The class of a token by the first part of its type's name that is listed; tokens of other types are plain text.
_CLASSES = {
    "Token.Comment": "c", "Token.Keyword": "k", "Token.Literal.String.Doc": "c", "Token.Literal.String": "s", "Token.Literal.Number": "m",
    "Token.Literal.Scalar.Plain": "s", "Token.Name.Tag": "t", "Token.Name.Class": "t", "Token.Name.Function": "t",
    "Token.Name.Decorator": "k", "Token.Operator.Word": "k",
}  # fmt: skip


def yaml(text: str) -> str:
    """Return a spec, whose numbers have a colour of their own."""
    from pygments.lexers.data import YamlLexer  # most commands need no lexer

    return _marked(text, YamlLexer())


def python(text: str) -> str:
    """Python source."""
    from pygments.lexers.python import PythonLexer

    return _marked(text, PythonLexer())


def _marked(text: str, lexer: Any) -> str:
    """Return the lines of a text, each an element."""
    lines: list[list[str]] = [[]]
    for word, value in _tokens(text, lexer):
        for at, part in enumerate(value.split("\n")):
            if at:
                lines.append([])
            if part:
                lines[-1].append(f"<i class={word}>{escaped(part)}</i>" if word else escaped(part))
    while lines and not lines[-1]:
        lines.pop()
    return "".join(f"<span>{''.join(line)}\n</span>" for line in lines)


def _tokens(text: str, lexer: Any) -> Iterator[tuple[str, str]]:
    """Yield the tokens of a text with their classes; neighbours of one class are one. A long text is one token."""
    if len(text) > LONGEST:
        yield "", text
        return
    before, gathered = "", ""
    for kind, value in lexer.get_tokens(text.expandtabs()):
        word = next((_CLASSES[name] for name in _names(kind) if name in _CLASSES), "")
        if word == "s" and value.replace(".", "", 1).lstrip("-").isdigit():
            word = "m"
        if word != before:
            yield before, gathered
            before, gathered = word, ""
        gathered += value
    yield before, gathered


def _names(kind: Any) -> Iterator[str]:
    """Yield the name of a type of tokens and those of the types that it belongs to, from the most special one on."""
    name = str(kind)
    while name:
        yield name
        name = name.rpartition(".")[0]

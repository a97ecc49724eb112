"""Writes the table of ops in docs/language.md from rescompile.ops, so that the page cannot disagree with the compiler.

Run `python docs/make_ops.py` after a change to an op; tests/docs/test_docs.py fails until you do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from rescompile.ir import ops

PAGE = Path(__file__).parent / "language.md"
BEGIN = "<!-- made by docs/make_ops.py: begin -->"
END = "<!-- made by docs/make_ops.py: end -->"

TYPES = {"int": "integer", "real": "number", "bool": "true or false", "size": "number or [height, width]"}


def section() -> str:
    """The text between the markers: one table per op, in the order of the closed list."""
    return "\n".join(line for kind in ops.KINDS for line in _op(kind))


def _op(kind: type[ops.Kind]) -> Iterator[str]:
    yield f"### {kind.word}"
    yield ""
    yield " ".join((kind.__doc__ or "").split())
    yield ""
    facts = ops.attributes(kind.word)
    if facts:
        defaults = {f.name: f.default for f in fields(kind)}
        yield "| attribute | value | default | meaning |"
        yield "|---|---|---|---|"
        for name, attribute in facts.items():
            main = " (main)" if attribute.main else ""
            default = _default(defaults[name])
            only = f"; only with {', '.join(f'`{kind}`' for kind in attribute.only)}" if attribute.only else ""
            yield f"| `{name}`{main} | {_value(attribute)} | {default} | {attribute.doc}{only} |"
    else:
        yield "No attributes."
    if owned := _parameters(kind):
        yield ""
        yield f"Parameters: {', '.join(f'`{name}`' for name in owned)}."
    fixed = [word for word, (other, given) in ops.WORDS.items() if other is kind and given]
    if fixed:
        yield ""
        yield f"Words of their own, which fix `kind`: {', '.join(_word(word) for word in fixed)}."
    yield ""


def _word(word: str) -> str:
    """A word with the attributes that it leaves open."""
    attributes = ops.attributes(word)
    return f"`{word}`" + (f" (takes {', '.join(f'`{name}`' for name in attributes)})" if attributes else "")


def _value(attribute: ops.Attribute) -> str:
    words = ", ".join(f"`{word}`" for word in attribute.words)
    if attribute.type == "word":
        return words
    low, high = attribute.minimum, attribute.maximum
    text = TYPES[attribute.type]
    if low is not None and high is not None:
        text += f", {low:g} to {high:g}"
    elif low is not None:
        text += f", at least {low:g}"
    return f"{text}; or {words}" if words else text


def _default(value: Any) -> str:
    if value is MISSING:
        return "required"
    if value is None:
        return "see meaning"
    if isinstance(value, tuple):
        value = value[0] if value[0] == value[1] else list(value)
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, float):
        value = f"{value:g}"
    return f"`{value}`"


def _parameters(kind: type[ops.Kind]) -> list[str]:
    """The names of the tensors that an op of this kind can own, bias included."""
    examples: dict[str, Any] = {"int": 8, "size": (1, 1), "real": 0.5, "word": "", "bool": True}
    facts = ops.attributes(kind.word)
    given = {name: examples[facts[name].type] for name in ops.required(kind.word)}
    if "bias" in facts:
        given["bias"] = True
    return [parameter.name for parameter in kind(**given).parameters((8, 1, 1) if "kernel" in facts else (8,))]


def renewed(page: str) -> str:
    """The page with the text between its markers made anew."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{section()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text("utf-8")), "utf-8")

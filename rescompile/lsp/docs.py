"""What is known about each thing that a spec can name, as Markdown: for hovers and for completion."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from rescompile.diagnostics.errors import Place, one_of
from rescompile.ir import ops
from rescompile.ir.expressions import show
from rescompile.ir.ops import Attribute
from rescompile.lang import library
from rescompile.lang.key_docs import BUILTIN_DOCS, KEY_DOCS
from rescompile.lang.spec.values import TYPES
from rescompile.lang.yaml_reader import Mapping, Scalar, plain, read_whatever
from rescompile.lsp.names import BlockFacts, Entity, Names, attribute_of


def about(entity: Entity, names: Names) -> str:
    """Return the documentation of a thing, or nothing if it has none."""
    return _ABOUT[entity.kind](entity, names) if entity.kind in _ABOUT else ""


def heading(text: str, *lines: str) -> str:
    """Return markdown: code on the first line, then paragraphs."""
    return "\n\n".join([f"```yaml\n{text}\n```", *(line for line in lines if line)])


def _op(entity: Entity, _: Names) -> str:
    """Return an op: its docstring, then its attributes."""
    word = entity.name
    if word not in ops.WORDS:
        return ""
    kind, fixed = ops.WORDS[word]
    listed = [f"- `{name}`: {facts.doc}{_expected(facts)}" for name, facts in ops.attributes(word).items()]
    first = (kind.__doc__ or "").partition("\n\n")[0]
    meaning = f"`{kind.word}` of kind `{fixed['kind']}`: {first}" if fixed else first
    return heading(word, " ".join(meaning.split()), "\n".join(listed))


def _attribute(entity: Entity, _: Names) -> str:
    """Return an attribute of an op."""
    word, name = entity.owner, entity.name
    if (facts := attribute_of(word, name)) is None:
        return ""
    text = f"{facts.doc[:1].upper()}{facts.doc[1:]}{_expected(facts)}."
    return heading(f"{word}: {{{name}: ...}}", text, _default(word, name))


def _default(word: str, name: str) -> str:
    """Return whether an attribute is required, or its default."""
    if name in ops.required(word):
        return "Required."
    value = next(f.default for f in ops.WORDS[word][0].__dataclass_fields__.values() if f.name == name)
    return f"Default: `{show(value)}`."


def _expected(facts: Attribute) -> str:
    """Return the values that an attribute takes."""
    typed = [TYPES[facts.type][0]] if facts.type in TYPES else []
    limits = [f"at least {facts.minimum:g}"] if facts.minimum is not None else []
    limits += [f"at most {facts.maximum:g}"] if facts.maximum is not None else []
    listed = one_of([*typed, *(f"`{word}`" for word in facts.words)])
    return f" ({listed}{', ' if limits else ''}{' and '.join(limits)})"


def _block(entity: Entity, names: Names) -> str:
    """Return a block: its description, its parameters, and where it is defined."""
    if (facts := names.block(entity.name)) is None:
        return ""
    listed = [
        f"- `{name}: {_written(facts, name)}` {_comment(place)}".rstrip()
        for name, (place, _) in facts.part("parameters").items()
    ]
    where = f"Defined in `{facts.place.source.name}`."
    return heading(
        f"block: {facts.word}", facts.description(), "\n".join(listed), facts.description("reference"), where
    )


def _written(facts: BlockFacts, name: str) -> str:
    """Return the definition of a parameter or let as it is written, on one line."""
    value = plain(facts.values[name][1])
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {show(item)}' for key, item in value.items())}}}"
    return show(value) if value is not None else ""


def _comment(place: Place) -> str:
    """Return the comment at the end of the line of a definition, which describes it."""
    _, sharp, text = place.source.line(place.line).partition(" #")
    return text.strip() if sharp else ""


def _parameter(entity: Entity, names: Names) -> str:
    """Return a parameter or let of a block, or a parameter of the network."""
    if not entity.owner:
        entry = names.entry("parameters", entity.name)
        if entry is None:
            return ""
        return heading(f"{entity.name}: {show(plain(entry[1]))}", "A parameter of the network.", _comment(entry[0]))
    facts = names.block(entity.owner)
    if facts is None or entity.name not in facts.values:
        return ""
    what = "parameter" if entity.name in facts.part("parameters") else "let"
    text = f"{entity.name}: {_written(facts, entity.name)}"
    return heading(text, f"A {what} of the block `{entity.owner}`.", _comment(facts.values[entity.name][0]))


@cache
def _spec(name: str) -> str:
    """Return a network of the zoo: its description and reference."""
    path = library.zoo_file(name)
    node = read_whatever(library.source(path)) if path is not None else None
    if not isinstance(node, Mapping):
        return ""
    described = (node.get(key) for key in ("description", "reference"))
    return heading(f"extends: {name}", *(str(each.value) for each in described if isinstance(each, Scalar)))


def _key(entity: Entity, _: Names) -> str:
    text = KEY_DOCS.get(entity.owner, {}).get(entity.name)
    return heading(f"{entity.name}:", text) if text else ""


_ABOUT: dict[str, Callable[[Entity, Names], str]] = {
    "key": _key,
    "op": _op,
    "attribute": _attribute,
    "block": _block,
    "parameter": _parameter,
    "spec": lambda entity, _: _spec(entity.name),
    "builtin": lambda entity, _: heading(entity.name, BUILTIN_DOCS[entity.name]),
}

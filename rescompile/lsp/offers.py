"""What may stand at each kind of place: a table of the sources of words that completion offers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rescompile.ir import ops
from rescompile.ir.expressions import FUNCTIONS
from rescompile.lang import library
from rescompile.lang.key_docs import BUILTIN_DOCS, KEY_DOCS
from rescompile.lang.spec.values import BLOCKLESS, TYPES
from rescompile.lang.yaml_reader import Scalar
from rescompile.lsp.names import Entity, Names, attribute_of
from rescompile.records import record

#: The words that a key takes, by the construct that has it.
WORDS: dict[str, tuple[str, ...]] = {
    "spec.init": ("he_normal_fan_out", "he_normal_fan_in", "torch_default"),
    "survival.schedule": ("linear", "linear_zero_based", "uniform"),
    "survival.unit": ("batch", "sample"),
    "survival.rescale": ("test", "train"),
    "drop_path.unit": ("batch", "sample"),
    "preprocess.interpolation": ("nearest", "bilinear", "bicubic", "lanczos"),
    "preprocess.channel_order": ("rgb", "bgr"),
    "parallel.merge": ("add", "concat", "mul", "mean", "shake"),
    "parallel.unit": ("batch", "sample"),
    "side.mode": ("training", "always", "never"),
    "parameter.only": ("first",),
}
#: Rows, attributes and arguments that `set` can change, beside these.
_SETTABLE = ("input", "block", "survival", "drop_path", "init", "features", "checkpoint", "preprocess")


@record(slots=False)
class Item:
    """Something to offer; `is_key` is set where it needs a value after a colon."""

    entity: Entity
    is_key: bool = False
    detail: str = ""


@record(slots=False)
class Cursor:
    """Where something is completed: the names known there, the file, what was typed so far, the keys beside it, and what is defined there."""

    names: Names
    path: Path
    typed: str = ""
    taken: frozenset[str] = frozenset()
    defined: tuple[Entity, ...] = ()


def keys(cursor: Cursor, owner: str) -> Iterator[Item]:
    """Yield the keys of a construct that are not there yet."""
    for name in KEY_DOCS.get(owner, {}):
        if name not in cursor.taken:
            yield Item(Entity("key", name, owner), is_key=True)


def op_keys(cursor: Cursor, word: str) -> Iterator[Item]:
    """Yield the attributes of an op that are not there yet, and `when`."""
    for name, facts in ops.attributes(word).items() if word in ops.WORDS else ():
        if name not in cursor.taken:
            yield Item(Entity("attribute", name, word), is_key=True, detail=facts.doc)
    if "when" not in cursor.taken:
        yield Item(Entity("key", "when", "row"), is_key=True)


def block_keys(cursor: Cursor, word: str) -> Iterator[Item]:
    """Yield the parameters of a block that are not there yet."""
    facts = cursor.names.block(word) if word else None
    for name in facts.part("parameters") if facts is not None else ():
        if name not in cursor.taken:
            yield Item(Entity("parameter", name, word), is_key=True)


def row_keys(cursor: Cursor, word: str) -> Iterator[Item]:
    """Yield the arguments of a row, and the keys that every row has."""
    yield from block_keys(cursor, word)
    yield from keys(cursor, "row")


def blocks(cursor: Cursor, frame: str) -> Iterator[Item]:
    """Yield every block, and the parameters that may be the word of one."""
    facts = cursor.names.block(frame) if frame else None
    for name in facts.part("parameters") if facts is not None else ():
        if facts is not None and facts.takes_block(name):
            yield Item(Entity("parameter", name, frame))
    yield from (Item(Entity("block", word)) for word in sorted(cursor.names.blocks))


def steps(cursor: Cursor, frame: str) -> Iterator[Item]:
    """Yield the beginnings of a step: an op, a block, or a construct."""
    for word in ops.WORDS:
        yield Item(Entity("op", word), is_key=bool(ops.required(word)))
    yield from blocks(cursor, frame)
    yield from keys(cursor, "step")


def step_keys(cursor: Cursor, _: str) -> Iterator[Item]:
    """Yield the keys that a step may begin with."""
    yield from (Item(Entity("op", word), is_key=True) for word in ops.WORDS)
    yield from keys(cursor, "step")
    if "block" not in cursor.taken:
        yield Item(Entity("key", "block", "row"), is_key=True)


def defaults(cursor: Cursor, _: str) -> Iterator[Item]:
    """Yield every op and block, as a key of `defaults`."""
    known = [*(("op", word) for word in ops.WORDS), *(("block", word) for word in sorted(cursor.names.blocks))]
    yield from (Item(Entity(kind, word), is_key=True) for kind, word in known if word not in cursor.taken)


def op_values(cursor: Cursor, owner: str) -> Iterator[Item]:
    """Yield the words of an attribute."""
    word, _, name = owner.partition(".")
    if (facts := attribute_of(word, name)) is not None:
        yield from words((*facts.words, *(("true", "false") if facts.type == "bool" else ())), owner)


def block_values(cursor: Cursor, owner: str) -> Iterator[Item]:
    """Yield the words of an argument of a block."""
    word, _, name = owner.partition(".")
    facts = cursor.names.block(word) if word else None
    if facts is None or name not in facts.part("parameters"):
        return
    yield from words(facts.words(name), owner)
    if facts.takes_block(name):
        yield from words(BLOCKLESS, owner)
        yield from blocks(cursor, "")
    value = facts.part("parameters")[name][1]
    if isinstance(value, Scalar) and (value.value == "bool" or isinstance(value.value, bool)):
        yield from words(("true", "false"), owner)


def words(listed: Iterable[str], owner: str = "") -> Iterator[Item]:
    """Words that are values."""
    yield from (Item(Entity("word", word, owner)) for word in listed)


def expressions(cursor: Cursor, frame: str) -> Iterator[Item]:
    """Yield the names that an expression may use, and the functions."""
    facts = cursor.names.block(frame) if frame else None
    known = facts.values if facts is not None else () if frame else cursor.names.parameters
    yield from (Item(Entity("parameter", name, frame)) for name in known)
    yield from (Item(Entity("builtin", name)) for name in BUILTIN_DOCS if name not in known)
    yield from (Item(Entity("word", name, "function")) for name in FUNCTIONS)


def kept(cursor: Cursor, _: str) -> Iterator[Item]:
    """Yield the kept values."""
    yield from (Item(entity) for entity in cursor.defined if entity.kind == "kept")


def steps_again(cursor: Cursor, place: str) -> Iterator[Item]:
    """Yield the steps with names in a scope, which can run again there; `place` is the block in whose body it is, and its full name."""
    frame, _, scope = place.partition(" ")
    for entity in cursor.defined:
        around, _, name = entity.name.rpartition(".")
        if (entity.kind, entity.owner, around) == ("step", frame, scope):
            yield Item(Entity("step", name, frame))


def specs(cursor: Cursor, _: str) -> Iterator[Item]:
    """Yield the networks of the zoo, and the specs beside this one."""
    yield from (Item(Entity("spec", name)) for name in library.zoo())
    beside = cursor.path.parent.glob("*.y*ml") if cursor.path.parent.is_dir() else ()
    names = sorted(path.name for path in beside if path.suffix in library.SUFFIXES and path.name != cursor.path.name)
    yield from (Item(Entity("spec", name)) for name in names[:100])


def rows(cursor: Cursor, _: str) -> Iterator[Item]:
    """Yield the full names of the rows."""
    yield from (Item(Entity("step", address)) for address in reversed(cursor.names.rows))


def paths(cursor: Cursor, _: str) -> Iterator[Item]:
    """Yield what `set` can change: rows, their attributes once the row is typed, parameters, and keys of the spec."""
    parent = cursor.typed.rpartition(".")[0]
    if (word := cursor.names.row_word(parent)) is not None:
        attributes = op_keys(cursor, word) if cursor.names.is_op(word) else row_keys(cursor, word)
    elif parent.startswith("defaults."):
        word = parent.removeprefix("defaults.")
        attributes = op_keys(cursor, word) if cursor.names.is_op(word) else block_keys(cursor, word)
    else:
        attributes = iter(())
    yield from (Item(Entity("step", f"{parent}.{item.entity.name}"), is_key=True) for item in attributes)
    yield from (Item(item.entity, is_key=True) for item in rows(cursor, ""))
    yield from (Item(Entity("step", f"parameters.{name}"), is_key=True) for name in cursor.names.parameters)
    yield from (Item(Entity("key", name, "spec"), is_key=True) for name in _SETTABLE)


OFFERS: dict[str, Callable[[Cursor, str], Iterable[Item]]] = {
    "keys": keys, "op key": op_keys, "block key": block_keys, "row key": row_keys, "block": blocks, "step": steps,
    "step key": step_keys, "default": defaults, "op value": op_values, "block value": block_values,
    "expression": expressions, "spec": specs, "row": rows, "path": paths,
    "word": lambda _, owner: words(WORDS.get(owner, ()), owner),
    "kept": kept, "again": steps_again,
    "truth": lambda _, __: words(("true", "false")),
    "type": lambda _, __: words(TYPES, "type"),
}  # fmt: skip

"""What the names in a spec may mean: blocks, parameters and rows of the text itself, of its bases, and of the library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from functools import cached_property
from typing import NamedTuple

from rescompile.diagnostics.errors import Place
from rescompile.ir import ops
from rescompile.ir.names import COMBINATORS, REFERENCES, RESERVED, ROW_KEYS
from rescompile.lang import library
from rescompile.lang.setting import Row, rows_of
from rescompile.lang.spec.later_ops import is_name
from rescompile.lang.yaml_reader import Items, Located, Mapping, Scalar, plain
from rescompile.records import record


class Entity(NamedTuple):
    """Something that has a name: a `key` of a table, an `op`, an `attribute` of an op, a `block`, a `parameter` or let of a block
    (of the network, without an owner), a `step` by its full name in the network or in a block, a `kept` value, a `spec`, a name
    that expressions always know (`builtin`), a `word` that is a value, or a whole `expression`."""

    kind: str
    name: str
    owner: str = ""


@record(slots=False)
class BlockFacts:
    """The content of the definition of a block, which may be unfinished."""

    word: str
    node: Located
    place: Place

    def part(self, key: str) -> dict[str, tuple[Place, Located]]:
        """Return the entries of `parameters` or `let`."""
        return self.node.table(key) if isinstance(self.node, Mapping) else {}

    @cached_property
    def values(self) -> dict[str, tuple[Place, Located]]:
        """Return every parameter and let, in order."""
        return {**self.part("parameters"), **self.part("let")}

    def words(self, name: str) -> list[str]:
        """Return the words that a parameter takes, those of blocks aside."""
        listed = _field(self.part("parameters").get(name), "one_of")
        return [str(word) for word in plain(listed)] if isinstance(listed, Items) else []

    def takes_block(self, name: str) -> bool:
        """Return whether a parameter may be the word of a block."""
        entry = self.part("parameters").get(name)
        short = entry is not None and isinstance(entry[1], Scalar) and entry[1].value == "block"
        kind = _field(entry, "type")
        return short or (isinstance(kind, Scalar) and kind.value == "block")

    def description(self, key: str = "description") -> str:
        """Return the description or reference of the block."""
        node = self.node.get(key) if isinstance(self.node, Mapping) else None
        return str(node.value) if isinstance(node, Scalar) and node.value is not None else ""


def _field(entry: tuple[Place, Located] | None, key: str) -> Located | None:
    return entry[1].get(key) if entry is not None and isinstance(entry[1], Mapping) else None


@record(slots=False)
class Names:
    """The names that a text may mention; `base` is the resolved spec that it extends, if that can be read."""

    own: Mapping
    base: Mapping | None
    _facts: dict[str, BlockFacts | None] = field(default_factory=dict)

    def entry(self, *path: str) -> tuple[Place, Located] | None:
        """Return a key of the text, or else of its base, with its value."""
        for document in (self.own, self.base):
            found: tuple[Place, Located] | None = None
            node: Located | None = document
            for key in path:
                found = node.entries.get(key) if isinstance(node, Mapping) else None
                node = found[1] if found else None
            if found is not None:
                return found
        return None

    def _keys(self, key: str) -> list[str]:
        """Return the keys of a mapping of the text and of its base."""
        nodes = [document.get(key) for document in (self.own, self.base) if document is not None]
        return list(dict.fromkeys(word for node in nodes if isinstance(node, Mapping) for word in node.entries))

    @cached_property
    def own_blocks(self) -> list[str]:
        """Return the blocks of the text and of its bases."""
        return self._keys("blocks")

    @cached_property
    def blocks(self) -> set[str]:
        """Return every block."""
        return {*self.own_blocks, *library.blocks()}

    @cached_property
    def parameters(self) -> list[str]:
        """Return the parameters of the network."""
        return self._keys("parameters")

    @property
    def default_block(self) -> str | None:
        """Return the block of rows that name none."""
        entry = self.entry("block")
        return entry[1].value if entry and isinstance(entry[1], Scalar) and isinstance(entry[1].value, str) else None

    def block(self, word: str) -> BlockFacts | None:
        """Return the definition of a block, or None."""
        if word not in self._facts:
            entry = self.entry("blocks", word)
            if entry is None and word in library.blocks():
                node = library.block(word)
                entry = Place(node.place.source, 1, 1, 2), node
            self._facts[word] = BlockFacts(word, entry[1], entry[0]) if entry else None
        return self._facts[word]

    def is_reference(self, word: str, value: Located) -> bool:
        """Return whether `word: value` keeps or uses a value or runs a step again, rather than being a step with a name."""
        return word in REFERENCES and not is_name(word, plain(value), self.own_blocks)

    def kept(self, name: str, frame: str) -> Entity:
        """Return the kept value of a name in the body of a block; one that the block shares is the network's."""
        node = facts.node if frame and (facts := self.block(frame)) is not None else None
        shared = node.get("values") if isinstance(node, Mapping) else None
        return Entity("kept", name, "" if isinstance(shared, Items) and name in plain(shared) else frame)

    def is_op(self, word: str, value: Located | None = None) -> bool:
        """Return whether a word, or `word: value`, is an op rather than a block or a name of a step."""
        if word not in ops.WORDS or (word in ops.LATER and word in self.own_blocks):
            return False
        return value is None or not is_name(word, plain(value), self.own_blocks)

    @cached_property
    def _network(self) -> Mapping:
        own = isinstance(self.own.get("network"), Items) or self.base is None
        return self.own if own or self.base is None else self.base

    @cached_property
    def rows(self) -> dict[str, Row]:
        """Return the rows that `set` may address, by address; those of the base where the text has no network of its own."""
        return {row.address: row for row in reversed(rows_of(self._network))}

    def row_place(self, address: str) -> Place | None:
        """Return where a row is written."""
        if (row := self.rows.get(address)) is None:
            return None
        node = value_at(self._network, row.path)
        if row.name is not None and isinstance(node, Mapping) and row.name in node.entries:
            return node.entries[row.name][0]
        return node.place if node is not None else None

    def row_word(self, address: str) -> str | None:
        """Return the op or block of a row."""
        if (row := self.rows.get(address)) is None:
            return None
        return self.word_of(value_at(self._network, (*row.path, row.name) if row.name else row.path))

    def word_of(self, node: Located | None) -> str | None:
        """Return the op or block that a step is, or None for a list or a combinator."""
        if isinstance(node, Scalar):
            return node.value if isinstance(node.value, str) else None
        if not isinstance(node, Mapping):
            return None
        if isinstance(block := node.get("block"), Scalar):
            return str(block.value)
        if any(key in node.entries for key in ROW_KEYS):
            return self.default_block
        if len(node.entries) == 1:
            ((key, (_, value)),) = node.entries.items()
            return key if key not in COMBINATORS and self.is_op(key, value) else None
        return None


def value_at(node: Located | None, path: Sequence[str | int]) -> Located | None:
    """Return the value at a path of a text, or None."""
    for step in path:
        if isinstance(node, Mapping):
            node = node.get(str(step))
        elif isinstance(node, Items) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
        else:
            return None
    return node


def attribute_of(word: str, name: str) -> ops.Attribute | None:
    """Return an attribute of an op, or None if the op or the attribute is unknown."""
    return ops.attributes(word).get(name) if word in ops.WORDS else None


def is_row(node: Mapping) -> bool:
    """Return whether a mapping under a name is a row with arguments, finished or not, rather than another step."""
    if any(key in node.entries for key in ROW_KEYS) or len(node.entries) != 1:
        return True
    ((key, (_, value)),) = node.entries.items()
    return (
        key not in RESERVED and key not in ops.WORDS and isinstance(value, Scalar) and not isinstance(value.value, str)
    )

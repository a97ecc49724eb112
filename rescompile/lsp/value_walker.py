"""Notes what stands at each place of a text: the values that a spec is made of.

Every key and value becomes a `Mention`: what it names, and what else could stand there. All features look at these alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from rescompile.diagnostics.errors import Place
from rescompile.ir.expressions import FUNCTIONS, KEYWORDS
from rescompile.ir.names import BRACES, BUILTINS, SIZES
from rescompile.lang.spec.values import BLOCKLESS
from rescompile.lang.yaml_reader import Items, Located, Mapping, Scalar
from rescompile.lsp.names import Entity, Names, attribute_of
from rescompile.records import record

Path = tuple[str | int, ...]
#: What may stand somewhere: a source of words, and whose they are; completion has a function for each source.
Offer = tuple[str, str]
_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*")
#: Names that are known wherever a block is repeated, or a map is.
EVERYWHERE = frozenset({*BUILTINS, *SIZES, "depth"})


@record
class Mention:
    """What stands at a place. `frame` is the block in whose body it is, or empty; `text` is the whole expression around a name;
    `path` leads to the value in the text; `is_key` is set for keys of mappings."""

    place: Place
    entity: Entity | None
    path: Path
    offers: tuple[Offer, ...] = ()
    frame: str = ""
    defines: bool = False
    is_key: bool = False
    text: str | None = None


class ValueWalker:
    """Notes keys, words, expressions, names and paths; `mentions` has everything so far."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.mentions: list[Mention] = []

    def add(self, place: Place, entity: Entity | None, path: Path, *offers: Offer, **more: object) -> None:
        self.mentions.append(Mention(place, entity, path, offers, **more))  # type: ignore[arg-type]

    def key(self, place: Place, entity: Entity | None, path: Path, *offers: Offer, **more: object) -> None:
        self.add(place, entity, path, *offers, is_key=True, **more)

    def scalar(self, node: Located, path: Path, kind: str, *offers: Offer, owner: str = "", frame: str = "") -> None:
        """A value that is one word."""
        if isinstance(node, Scalar):
            known = Entity(kind, str(node.value), owner) if node.value is not None else None
            self.add(node.place, known, path, *offers, frame=frame)

    def value(self, node: Located, path: Path, frame: str, *offers: Offer, words: Collection[str] = ()) -> None:
        """A value: an expression, a list, or one value per copy; `words` mean themselves."""
        match node:
            case Scalar():
                text = node.value if isinstance(node.value, str) else None
                whole = None if node.value is None else Entity("expression", str(node.value), frame)
                self.add(node.place, whole, path, *offers, ("expression", frame), frame=frame, text=text)
                if text is not None:
                    self.expression(text, unquoted(node.place), 0, path, frame, words, offers)
            case Items():
                for at, item in enumerate(node.items):
                    self.value(item, (*path, at), frame, *offers, words=words)
            case Mapping():
                for key, (place, item) in node.entries.items():
                    self.key(place, Entity("key", key, "value"), (*path, key), ("keys", "value"))
                    self.value(item, (*path, key), frame, *offers, words=words)

    def expression(
        self, text: str, place: Place, offset: int, path: Path, frame: str, words: Collection[str] = (),
        offers: tuple[Offer, ...] = (), is_key: bool = False,
    ) -> None:  # fmt: skip
        """The names of an expression that begins `offset` characters into a place."""
        for match in _NAME.finditer(text):
            if match[0] in KEYWORDS or (match[0] in FUNCTIONS and text[match.end() :].lstrip().startswith("(")):
                continue
            where = place.part(offset + match.start(), len(match[0]))
            entity = self.name(match[0], frame, words)
            more = (*offers, ("expression", frame))
            self.add(where, entity, path, *more, frame=frame, text=text, is_key=is_key)

    def name(self, name: str, frame: str, words: Collection[str]) -> Entity | None:
        """Return what a name in an expression means."""
        block = self.names.block(frame) if frame else None
        if name in (block.values if block else () if frame else self.names.parameters):
            return Entity("parameter", name, frame)
        if name in words:
            return Entity("block" if name in self.names.blocks else "word", name)
        if name in EVERYWHERE:
            return Entity("builtin", name)
        if name in self.names.blocks:
            return Entity("block", name)
        return Entity("word", name) if name in BLOCKLESS else None

    def kept(self, node: Located, path: Path, frame: str, defines: bool = False) -> None:
        """Note a mention of a kept value, such as `y` or `y[index - 1]`."""
        if isinstance(node, Scalar):
            name, bracket, index = str(node.value if node.value is not None else "").partition("[")
            place, known = unquoted(node.place), self.names.kept(name.strip(), frame) if name.strip() else None
            self.add(place.part(0, len(name)), known, path, ("kept", frame), frame=frame, defines=defines)
            if bracket:
                self.expression(index, place, len(name) + 1, path, frame)

    def template(self, place: Place, text: str, path: Path, frame: str, is_key: bool) -> None:
        """The expressions in a name."""
        for match in BRACES.finditer(text):
            self.expression(match[1], place, match.start(1), path, frame, is_key=is_key)

    def entries(self, node: Located | None, path: Path) -> Iterator[tuple[str, Place, Located, Path]]:
        """Yield the entries of a mapping, each with its place and path."""
        if isinstance(node, Mapping):
            for key, (place, value) in node.entries.items():
                yield key, place, value, (*path, key)

    def given(self, kind: str, word: str, node: Located, path: Path, frame: str) -> None:
        """The attributes of an op, or the arguments of a block."""
        for name, place, value, here in self.entries(node, path):
            known = Entity("attribute" if kind == "op" else "parameter", name, word)
            if name == "when":
                known = Entity("key", name, "row")
            self.key(place, known, here, (f"{kind} key", word), frame=frame)
            self.attribute(kind, word, name, value, here, frame)

    def attribute(self, kind: str, word: str, name: str, node: Located, path: Path, frame: str) -> None:
        """The value of one attribute or argument."""
        if kind == "op":
            facts = attribute_of(word, name)
            words: Collection[str] = facts.words if facts else ()
        else:
            block = self.names.block(word)
            words = {*(block.words(name) if block else ())}
            if block is not None and block.takes_block(name):
                words |= {*self.names.blocks, *BLOCKLESS}
        self.value(node, path, frame, (f"{kind} value", f"{word}.{name}"), words=words)

    def address(self, text: str, place: Place, path: Path, offer: Offer, is_key: bool) -> None:
        """The full name of a row: each part of it names a row too."""
        start = 0
        for part in text.split("."):
            full = text[: start + len(part)]
            row = self.names.rows.get(full)
            word = self.names.row_word(full) if row is not None and row.name is None else None
            known = Entity("step", full)
            if word == full:  # a row without a name is addressed by its word
                known = Entity("op" if self.names.is_op(word) else "block", word)
            self.add(place.part(start, len(part)), known, path, offer, is_key=is_key)
            start += len(part) + 1


def unquoted(place: Place) -> Place:
    """Return the place of a key or value without an opening quote."""
    quoted = place.source.line(place.line)[place.column - 1 : place.column] in ("'", '"')
    return place.part(1, max(place.end - place.column - 2, 1)) if quoted else place

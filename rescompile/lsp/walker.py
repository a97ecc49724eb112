"""Walks over the text of a spec as the grammar has it, finished or not, and notes what stands at each place."""

from __future__ import annotations

from collections.abc import Callable

from rescompile.diagnostics.errors import Place
from rescompile.ir.names import ROW_KEYS
from rescompile.lang.spec.values import BLOCKLESS
from rescompile.lang.yaml_reader import Items, Located, Mapping, Scalar
from rescompile.lsp.names import Entity, Names
from rescompile.lsp.step_walker import StepWalker
from rescompile.lsp.value_walker import Mention, Path, ValueWalker, unquoted

#: The keys of a spec whose values are mappings with keys of their own.
TABLES = ("preprocess", "survival", "drop_path", "expect")


def mentions(names: Names) -> list[Mention]:
    """Return everything in a text."""
    walker = SpecWalker(names)
    walker.spec()
    return walker.values.mentions


class SpecWalker:
    """Walks over the keys of a spec and the definitions of blocks."""

    def __init__(self, names: Names) -> None:
        self.names, self.values = names, ValueWalker(names)
        self.steps = StepWalker(self.values)
        self.key, self.value, self.scalar, self.entries = (
            self.values.key, self.values.value, self.values.scalar, self.values.entries
        )  # fmt: skip
        self.keys: dict[str, Callable[[Located, Path], None]] = {
            "extends": lambda node, path: self.scalar(node, path, "spec", ("spec", "")),
            "block": lambda node, path: self.steps.block_word(node, path, ""),
            "parameters": self.parameters,
            "defaults": self.defaults,
            "blocks": self.blocks,
            "network": lambda node, path: self.steps.steps(node, path, "", ""),
            "features": self.features,
            "set": self.settings,
            "init": lambda node, path: self.scalar(node, path, "word", ("word", "spec.init")),
            "checkpoint": lambda node, path: self.scalar(node, path, "word", ("truth", "")),
            **dict.fromkeys(TABLES, self.table),
        }

    def spec(self) -> None:
        """The whole text."""
        for key, (place, node) in self.names.own.entries.items():
            self.key(place, Entity("key", key, "spec"), (key,), ("keys", "spec"))
            if key in self.keys:
                self.keys[key](node, (key,))
            elif isinstance(node, Scalar):
                self.values.add(node.place, None, (key,))

    def parameters(self, node: Located, path: Path) -> None:
        for name, place, value, here in self.entries(node, path):
            self.key(place, Entity("parameter", name), here, defines=True)
            self.value(value, here, "", ("block", ""), words=self.names.blocks)

    def defaults(self, node: Located, path: Path) -> None:
        for word, place, value, here in self.entries(node, path):
            kind = "op" if self.names.is_op(word) else "block"
            self.key(place, Entity(kind, word), here, ("default", ""))
            self.values.given(kind, word, value, here, "")

    def features(self, node: Located, path: Path) -> None:
        for at, item in enumerate(node.items if isinstance(node, Items) else ()):
            if isinstance(item, Scalar):
                self.values.address(str(item.value or ""), unquoted(item.place), (*path, at), ("row", ""), is_key=False)

    def settings(self, node: Located, path: Path) -> None:
        for name, place, value, here in self.entries(node, path):
            inner = unquoted(place)
            self.key(place, None, here, ("path", ""))
            head, _, rest = name.partition(".")
            parent, _, attribute = name.rpartition(".")
            word = self.names.row_word(parent) if parent else None
            if name in self.names.rows:
                self.values.address(name, inner, here, ("path", ""), is_key=True)
                self.steps.step(value, here, "", name)
            elif word is not None:
                self.values.address(parent, inner, here, ("path", ""), is_key=True)
                kind = "op" if self.names.is_op(word) else "block"
                known = Entity("attribute" if kind == "op" else "parameter", attribute, word)
                if attribute in ROW_KEYS or attribute == "when":
                    known = Entity("key", attribute, "row")
                self.key(inner.part(len(parent) + 1, len(attribute)), known, here, ("path", ""))
                self.values.attribute(kind, word, attribute, value, here, "")
            elif head == "parameters" and rest:
                self.key(inner.part(len(head) + 1, len(rest)), Entity("parameter", rest), here, ("path", ""))
                self.value(value, here, "")
            elif head == "defaults" and rest:
                self.default_path(rest, inner, here, value)
            else:
                self.key(inner, Entity("key", head, "spec"), here, ("path", ""))
                self.value(value, here, "")

    def default_path(self, rest: str, place: Place, path: Path, node: Located) -> None:
        """`defaults.word` or `defaults.word.attribute` as a path of `set`."""
        start = len("defaults.")
        word, _, name = rest.partition(".")
        kind = "op" if self.names.is_op(word) else "block"
        self.key(place.part(start, len(word)), Entity(kind, word), path, ("path", ""))
        if name:
            known = Entity("attribute" if kind == "op" else "parameter", name, word)
            self.key(place.part(start + len(word) + 1, len(name)), known, path, ("path", ""))
            self.values.attribute(kind, word, name, node, path, "")

    def table(self, node: Located, path: Path) -> None:
        owner = str(path[-1])
        for key, place, value, here in self.entries(node, path):
            self.key(place, Entity("key", key, owner), here, ("keys", owner))
            self.scalar(value, here, "word", ("word", f"{owner}.{key}"), owner=f"{owner}.{key}")

    # --- blocks ---

    def blocks(self, node: Located, path: Path) -> None:
        for word, place, value, here in self.entries(node, path):
            self.key(place, Entity("block", word), here, defines=True)
            for key, key_place, inner, there in self.entries(value, here):
                self.key(key_place, Entity("key", key, "block"), there, ("keys", "block"))
                self.block_part(key, inner, there, word)

    def block_part(self, key: str, node: Located, path: Path, word: str) -> None:
        """The value of one key of a block's definition."""
        if key == "parameters":
            for name, place, value, here in self.entries(node, path):
                self.key(place, Entity("parameter", name, word), here, defines=True, frame=word)
                self.definition(value, here, word)
        elif key == "let":
            for name, place, value, here in self.entries(node, path):
                self.key(place, Entity("parameter", name, word), here, defines=True, frame=word)
                self.value(value, here, word)
        elif key == "body":
            self.steps.steps(node, path, word, "")
        elif key == "when":
            self.value(node, path, word)
        elif key == "members" and isinstance(node, Scalar):
            self.values.template(unquoted(node.place), str(node.value), path, word, is_key=False)
        elif key == "values":
            for at, item in enumerate(node.items if isinstance(node, Items) else ()):
                self.values.kept(item, (*path, at), word)
        elif key in ("stage", "inline"):
            self.scalar(node, path, "word", ("truth", ""))

    def definition(self, node: Located, path: Path, word: str) -> None:
        """The type or default of a parameter, or a mapping of both."""
        facts = self.names.block(word)
        words = {*(facts.words(str(path[-1])) if facts else ()), *self.names.blocks, *BLOCKLESS}
        if not isinstance(node, Mapping):
            self.value(node, path, word, ("type", ""), words=words)
            return
        for key, place, value, here in self.entries(node, path):
            self.key(place, Entity("key", key, "parameter"), here, ("keys", "parameter"))
            if key == "default":
                self.value(value, here, word, words=words)
            else:
                offer = ("type", "") if key == "type" else ("word", f"parameter.{key}")
                for item in value.items if isinstance(value, Items) else (value,):
                    self.scalar(item, here, "word", offer, owner=f"parameter.{key}")

"""Walks over the steps of a network or of a block's body: rows, ops, merges, conditions and the names of steps."""

from __future__ import annotations

from rescompile.diagnostics.errors import Place
from rescompile.ir import ops
from rescompile.ir.names import COMBINATORS, ROW_KEYS
from rescompile.ir.network import join
from rescompile.lang.yaml_reader import Items, Located, Mapping, Scalar
from rescompile.lsp.names import Entity, is_row
from rescompile.lsp.value_walker import Offer, Path, ValueWalker, unquoted

#: The keys of merges and conditions whose values are steps, and those whose values are expressions; others take words.
_STEPS = ("branch", "shortcut", "gate", "body", "then", "else", "branches")
_EXPRESSIONS = ("copies", "split", "if")


class StepWalker:
    """Notes what is in steps. `frame` is the block in whose body they are, or empty; `scope` is the full name around them."""

    def __init__(self, values: ValueWalker) -> None:
        self.values, self.names = values, values.names

    def steps(self, node: Located, path: Path, frame: str, scope: str) -> None:
        """A list of steps."""
        if not isinstance(node, Items):
            self.step(node, path, frame, scope)
            return
        for at, item in enumerate(node.items):
            self.step(item, (*path, at), frame, scope)

    def step(self, node: Located, path: Path, frame: str, scope: str) -> None:
        """One step of any form."""
        match node:
            case Scalar():
                word = str(node.value) if node.value is not None else ""
                self.values.add(node.place, self.word(word, frame), path, ("step", frame), frame=frame)
            case Items():
                self.steps(node, path, frame, scope)
            case Mapping() if "block" in node.entries:
                self.use(node, path, frame, scope, ("step key", frame))
            case Mapping() if "if" in node.entries:
                self.parts(node, path, frame, scope, "if")
            case Mapping():
                alone = len(node.entries) == 1
                for key, (place, value) in node.entries.items():
                    self.form(key, place, value, (*path, key), frame, scope, alone)

    def form(self, key: str, place: Place, value: Located, path: Path, frame: str, scope: str, alone: bool) -> None:
        """A step that is a mapping, by its key; one of several keys is unfinished and has no name yet."""
        offer: Offer = ("step key", frame)
        if key in COMBINATORS:
            self.values.key(place, Entity("key", key, "step"), path, offer, frame=frame)
            self.parts(value, path, frame, scope, key)
        elif self.names.is_reference(key, value):
            self.values.key(place, Entity("key", key, "step"), path, offer, frame=frame)
            if key == "again":
                self.again(value, path, frame, scope)
                return
            self.values.kept(value, path, frame, defines=key == "keep")
        elif self.names.is_op(key, value):
            self.values.key(place, Entity("op", key), path, offer, frame=frame)
            self.op(key, value, path, frame)
        elif alone:
            full = join(scope, key)
            self.values.key(place, Entity("step", full, frame), path, offer, frame=frame, defines=True)
            self.values.template(unquoted(place), key, path, frame, is_key=True)
            if isinstance(value, Mapping) and is_row(value):
                self.use(value, path, frame, full)
            else:
                self.step(value, path, frame, full)
        else:
            self.values.key(place, self.word(key, frame), path, offer, frame=frame)

    def again(self, node: Located, path: Path, frame: str, scope: str) -> None:
        """The name of a step of the same scope."""
        if isinstance(node, Scalar):
            name = str(node.value) if node.value is not None else ""
            known = Entity("step", join(scope, name), frame) if name else None
            self.values.add(unquoted(node.place), known, path, ("again", f"{frame} {scope}"), frame=frame)
            self.values.template(unquoted(node.place), name, path, frame, is_key=False)

    def word(self, word: str, frame: str) -> Entity | None:
        """Return what a step of one word is."""
        block = self.names.block(frame) if frame else None
        if block is not None and word in block.values:
            return Entity("parameter", word, frame)
        if self.names.is_op(word):
            return Entity("op", word)
        if word in self.names.blocks:
            return Entity("block", word)
        return Entity("key", word, "step") if word in COMBINATORS else Entity("word", word) if word == "none" else None

    def block_word(self, node: Located, path: Path, frame: str) -> None:
        """The value of `block`."""
        if isinstance(node, Scalar):
            word = str(node.value) if node.value is not None else ""
            known = self.word(word, frame)
            known = known if known is not None and known.kind in ("block", "parameter") else None
            self.values.add(node.place, known, path, ("block", frame), frame=frame)

    def use(self, node: Mapping, path: Path, frame: str, scope: str, *offers: Offer) -> None:
        """A row: a block with arguments. `offers` are those of a row without a name, which may become another step."""
        given = node.get("block")
        word = str(given.value) if isinstance(given, Scalar) and given.value is not None else ""
        if given is None and not frame:
            word = self.names.default_block or ""
        for key, place, value, here in self.values.entries(node, path):
            is_own = key in (*ROW_KEYS, "name", "when")
            known = Entity("key", key, "row") if is_own else Entity("parameter", key, word)
            self.values.key(place, known, here, ("row key", word), *offers, frame=frame)
            if key == "block":
                self.block_word(value, here, frame)
            elif key in ("depth", "when"):
                self.values.value(value, here, frame)
            elif key in ("name", "members") and isinstance(value, Scalar):
                text = str(value.value)
                if key == "name":
                    full = Entity("step", join(scope, text), frame)
                    self.values.add(value.place, full, here, frame=frame, defines=True)
                self.values.template(unquoted(value.place), text, here, frame, is_key=False)
            elif not is_own:
                self.values.attribute("block", word, key, value, here, frame)

    def op(self, word: str, node: Located, path: Path, frame: str) -> None:
        """The attributes of an op, or the value of its main one."""
        if isinstance(node, Mapping):
            self.values.given("op", word, node, path, frame)
            return
        main = ops.main_attribute(word)
        facts = ops.attributes(word)[main].words if main else ()
        self.values.value(node, path, frame, ("op value", f"{word}.{main or ''}"), ("op key", word), words=facts)

    def parts(self, node: Located, path: Path, frame: str, scope: str, owner: str) -> None:
        """The parts of a merge, a side branch or a condition."""
        if isinstance(node, Scalar):
            self.values.add(node.place, None, path, ("keys", owner), frame=frame)
        for key, place, value, here in self.values.entries(node, path):
            self.values.key(place, Entity("key", key, owner), here, ("keys", owner), frame=frame)
            if key in _STEPS:
                self.steps(value, here, frame, scope)
            elif key in _EXPRESSIONS:
                self.values.value(value, here, frame)
            else:
                slot = f"{owner}.{key}"
                self.values.scalar(value, here, "word", ("word", slot), owner=slot, frame=frame)

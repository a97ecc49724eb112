"""Blocks: binds arguments to parameters, once or per copy, and elaborates the body in a scope of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rescompile.diagnostics.errors import nearest, one_of
from rescompile.elaboration.frames import Frame, Given, Path, Value
from rescompile.elaboration.scopes import Names
from rescompile.elaboration.steps import Steps
from rescompile.ir import ops
from rescompile.ir.network import Node, Series
from rescompile.ir.ops import Shape
from rescompile.ir.provenance import NO_HINTS, Call
from rescompile.lang.spec.blocks import Block
from rescompile.lang.spec.rows import Use
from rescompile.lang.spec.spec import Spec
from rescompile.lang.spec.steps import NamedStep, OpStep
from rescompile.lang.spec.values import Each, FirstRest, SpecModel

MAX_CALLS = 32
_VARYING = frozenset({"index", "depth", "copy"})
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Calls(Steps):
    """Uses of blocks. Copies with equal arguments share their nodes: the tree is immutable, and names are relative."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.memo: dict[Any, tuple[tuple[Node, ...], Shape, int]] = {}  # with the number of nodes
        self.varying: dict[str | None, bool] = {}
        self.spec_block_used = False
        # Defaults of ops that differ among copies make every block differ.
        given = [values for word, values in spec.defaults.items() if word in ops.WORDS]
        self.per_block_defaults = _tells_copies_apart(given)

    def use(
        self, use: Use, path: Path, frame: Frame, shape: Shape, names: Names, name: str | None
    ) -> tuple[list[Node], Shape]:
        word = use.block or self.spec.block
        assert word is not None
        self.spec_block_used |= use.block is None
        definition = frame.block.parameters.get(word) if frame.block is not None else None
        if definition is not None:
            word = frame.values[word]
            if word == "identity":
                return [], shape
        if word == "none" or word not in self.spec.blocks:
            message = (
                "'none' has a meaning only as the shortcut of a residual"
                if word == "none"
                else f"there is no block '{word}'"
            )
            raise self.blamed("E0401", message, path, frame, use.block)
        block = self.spec.blocks[word]
        if frame.nesting >= MAX_CALLS:
            raise self.blamed(
                "E0408", f"blocks are nested more than {MAX_CALLS} deep; '{word}' seems to contain itself", path, frame
            )
        self.used.add(word)
        if name is None and use.name is not None:
            if use.depth is None and not self.is_there(use, path, frame, shape):
                return [], shape
            name = self.explicit(use.name, (*path, "name"), frame, names, shape)
        if use.depth is None:
            if not self.is_there(use, path, frame, shape):
                return [], shape
            return self.single(use, word, block, path, frame, shape, names, name)
        minimum = 1 if frame.block is None else 0
        depth = self.whole(use.depth, frame, (*path, "depth"), "depth", minimum, in_channels=shape[0])
        return self.copies(use, word, block, depth, path, frame, shape, names, name)

    def single(
        self,
        use: Use,
        word: str,
        block: Block,
        path: Path,
        frame: Frame,
        shape: Shape,
        names: Names,
        name: str | None,
    ) -> tuple[list[Node], Shape]:
        if name is None and not block.inline:
            if not names.numbered:
                raise self.blamed(
                    "E0404",
                    f"block '{word}' needs a name here",
                    path,
                    frame,
                    help=f"write '- name: {{block: {word}}}', or mark the block 'inline: true' to make it a macro",
                )
            name = self.automatic(word, path, frame, names)
        inner = self.bind(use, word, block, path, frame, shape, None, None)
        scope = names if name is None else self.names_of(block.body, numbered=block.inline)
        nodes, output = self.body(block, inner, shape, scope, shared=name is not None)
        when = None if use.when is None else str(use.when)
        return [self.series(use, nodes, shape, output, name, inner, path, when)], output

    def copies(
        self,
        use: Use,
        word: str,
        block: Block,
        depth: int,
        path: Path,
        frame: Frame,
        shape: Shape,
        names: Names,
        name: str | None,
    ) -> tuple[list[Node], Shape]:
        template, where = (
            (use.members, (*path, "members")) if use.members else (block.members, ("blocks", word, "members"))
        )
        spliced = name is None and block.inline and use.members is None
        if name is None and not spliced and template is None and not names.numbered:
            raise self.blamed(
                "E0404",
                f"the repeated block '{word}' needs a name here",
                path,
                frame,
                help=f"write '- name: {{block: {word}, depth: ...}}'",
            )
        scope = names if name is None else Names()
        when = None if use.when is None else str(use.when)
        first_shape, members = shape, []
        for index in range(depth):
            counted = frame.with_values(index=index, depth=depth)
            if use.when is not None and not self.condition(use.when, counted, (*path, "when"), in_channels=shape[0]):
                continue
            inner = self.bind(use, word, block, path, counted, shape, index, depth)
            member = None
            if not spliced:
                if name is None and names.numbered and template is None:
                    member = self.automatic(word, path, frame, names)
                else:
                    named_in = inner if template is block.members else counted
                    member = self.spelled(template or "{index}", where, named_in, in_channels=shape[0])
                    self.claim(member, where, frame, scope)
            own = scope if member is None else self.names_of(block.body, numbered=block.inline)
            nodes, output = self.body(block, inner, shape, own, shared=member is not None)
            members.append(self.series(use, nodes, shape, output, member, inner, path, when))
            shape = output
        if name is None:
            return list(members), shape
        return [Series(tuple(members), first_shape, shape, name, origin=self.origin(path))], shape

    def series(
        self,
        use: Use,
        nodes: Sequence[Node],
        shape: Shape,
        output: Shape,
        name: str | None,
        inner: Frame,
        path: Path,
        when: str | None,
    ) -> Series:
        assert inner.word is not None
        assert inner.block is not None
        if path not in self.hints:
            written = {**use.arguments, "depth": use.depth}
            self.hints[path] = {key: raw for key, raw in written.items() if isinstance(raw, str)} or NO_HINTS
        arguments = {key: inner.values[key] for key in inner.block.parameters}
        defaults = {
            key: d.default
            for key, d in inner.block.parameters.items()
            if not isinstance(d.default, str | None) or d.default in {*(d.one_of or ()), *self.block_words}
        }
        call = Call(
            inner.word, arguments, defaults, self.hints[path], inner.values.get("index"), inner.values.get("depth")
        )
        return Series(tuple(nodes), shape, output, name, call, self.origin(path), when)

    def body(
        self, block: Block, frame: Frame, shape: Shape, names: Names, shared: bool
    ) -> tuple[Sequence[Node], Shape]:
        """The nodes of a block for one set of arguments. Copies with equal arguments in scopes of their own are the same
        nodes: the tree is immutable, and names are relative."""
        key = None
        if shared:
            key = (
                frame.word,
                names.numbered,
                shape,
                tuple((k, _frozen(v)) for k, v in frame.values.items() if k not in _VARYING or self.varies(frame.word)),
            )
            if key in self.memo:
                shared_nodes, shared_output, count = self.memo[key]
                self.grow(frame.use, frame, count)
                return shared_nodes, shared_output
        before = self.nodes
        if block.when is not None and not self.condition(
            block.when, frame, (*frame.path, "when"), in_channels=shape[0]
        ):
            result: tuple[Sequence[Node], Shape] = ((), shape)
        else:
            nodes, output = self.steps(block.body, (*frame.path, "body"), frame, shape, names)
            result = (tuple(nodes), output)
        if key is not None:
            self.memo[key] = (tuple(result[0]), result[1], self.nodes - before)
        return result

    def varies(self, word: str | None) -> bool:
        """Whether the body of a block depends on its place among the copies: through a name, or a value per block."""
        if word not in self.varying:
            body = self.spec.blocks[word].body if word else []
            lets = self.spec.blocks[word].let if word else {}
            self.varying[word] = self.per_block_defaults or _tells_copies_apart([body, lets])
        return self.varying[word]

    def bind(
        self,
        use: Use,
        word: str,
        block: Block,
        path: Path,
        frame: Frame,
        shape: Shape,
        index: int | None,
        depth: int | None,
    ) -> Frame:
        """The frame of one use: every parameter bound (row > defaults > block), then every let."""
        words = {w for definition in block.parameters.values() for w in definition.one_of or ()}
        if any(definition.type == "block" for definition in block.parameters.values()):
            words |= self.block_words
        place = {} if index is None else {"index": index, "depth": depth}
        inner = Frame(
            {"in_channels": shape[0], **place},
            ("blocks", word),
            path,
            frozenset(words),
            block,
            word,
            frame,
            nesting=frame.nesting + 1,
        )
        for unknown in use.arguments.keys() - block.parameters.keys():
            help = nearest(unknown, block.parameters) or f"{word} takes {one_of(sorted(block.parameters) or ['none'])}"
            raise self.blamed("E0402", f"{word} has no argument '{unknown}'", (*path, unknown), frame, help=help)
        defaults = self.spec.defaults.get(word, {})
        for name, definition in block.parameters.items():
            if name in use.arguments:
                given = Given((*path, name), frame, use.arguments[name])
            elif name in defaults:
                given = Given(("defaults", word, name), self.top, defaults[name])
            elif definition.default is None:
                raise self.blamed("E0403", f"block '{word}' needs {name}", path, frame)
            else:
                given = None
            per_block = given is not None and isinstance(given.raw, Each | FirstRest)
            if given is not None and definition.only == "first" and index and not per_block:
                given = None
            takes = {*(definition.one_of or ()), *(self.block_words if definition.type == "block" else ())}
            if given is None:
                where: Path = (*inner.path, "parameters", name)
                value = self.evaluate(definition.default, inner, where, takes)
                self.check_argument(value, definition, name, where, inner, definition.default)
            else:
                raw, where = self.at(given.raw, given.path, index, depth, f"{word}.{name}")
                given = Given(where, given.frame, raw)
                value = self.evaluate(raw, given.frame, where, takes, in_channels=shape[0], **place)
                self.check_argument(value, definition, name, where, given.frame, raw)
                inner.given[name] = given
            inner.values[name] = value
        for name, raw in block.let.items():
            inner.values[name] = self.evaluate(raw, inner, (*inner.path, "let", name))
        return inner


def _frozen(value: Value) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else (type(value), value)


def _tells_copies_apart(value: Any) -> bool:
    """Whether steps or values mention the place among the copies, or hold a value per copy."""
    match value:
        case Each() | FirstRest():
            return True
        case str():
            return not _VARYING.isdisjoint(_WORD.findall(value))
        case list() | tuple():
            return any(_tells_copies_apart(item) for item in value)
        case dict():
            return any(_tells_copies_apart(item) for pair in value.items() for item in pair)
        case SpecModel() | NamedStep() | OpStep():
            return any(_tells_copies_apart(item) for _, item in value)
    return False

"""Blocks: binds arguments to parameters, once or per copy, and elaborates the body in a separate scope."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rescompile.diagnostics.errors import nearest, one_of
from rescompile.elaboration.context import Context, Counted
from rescompile.elaboration.kept import Kept
from rescompile.elaboration.site import Built, Frame, Given, Names, Site, Value
from rescompile.ir.expressions import show
from rescompile.ir.network import Key, Node, Series
from rescompile.ir.ops import Shape
from rescompile.ir.provenance import Call
from rescompile.lang.spec.blocks import Block, ParameterDefinition
from rescompile.lang.spec.mentions import mentions, strides
from rescompile.lang.spec.rows import Use
from rescompile.lang.spec.values import Each, FirstRest

MAX_CALLS = 32
#: The names that differ among the copies of a row; the `copy` of a surrounding or inner parallel is the same for all.
_VARYING = frozenset({"index", "depth"})


class BlockBuilder:
    """Builds uses of blocks; `steps` builds their bodies. Copies with equal arguments share their nodes: the tree is
    immutable, and names are relative."""

    def __init__(self, context: Context, steps: Callable[[Sequence[Any], Site], Built]) -> None:
        self.context, self.spec, self.report = context, context.spec, context.report
        self.evaluator, self.namer, self.steps = context.evaluator, context.namer, steps
        # With the values that they keep for later steps, and the numbers of nodes and parameters.
        self._shared: dict[Any, tuple[Built, dict[Key, Shape], int, int]] = {}
        self._varying: dict[str, bool] = {}
        self._words = {word: block.words(context.block_words) for word, block in self.spec.blocks.items()}
        self._literals = {word: self._literal_defaults(block) for word, block in self.spec.blocks.items()}
        # Defaults of ops that differ among copies make every block differ.
        given = [values for word, values in self.spec.defaults.items() if self.spec.is_op(word)]
        self._defaults_vary = _differs_among_copies(given)

    def _literal_defaults(self, block: Block) -> dict[str, Any]:
        """Return the defaults of a block's parameters that are not expressions."""
        return {
            name: parameter.default
            for name, parameter in block.parameters.items()
            if not isinstance(parameter.default, str | None)
            or parameter.default in {*(parameter.one_of or ()), *self.context.block_words}
        }

    def build(self, use: Use, site: Site) -> Built:
        """Return the nodes of one use of a block."""
        word = use.block or self.spec.block
        assert word is not None
        frame, shape = site.frame, site.shape
        if frame.block is not None and word in frame.block.parameters:
            word = frame.values[word]
            if word == "identity":
                return [], shape
        assert word is not None
        if word == "none" or word not in self.spec.blocks:
            message = f"unknown block '{word}'"
            if word == "none":
                message = "'none' is only allowed as the shortcut of a residual"
            raise self.report.blamed("E0401", message, site, raw=use.block)
        if frame.nesting >= MAX_CALLS:
            message = f"blocks are nested more than {MAX_CALLS} levels deep; '{word}' seems to contain itself"
            help = "a block may use itself under a condition that becomes false"
            raise self.report.blamed("E0408", message, site, help)
        self.context.used.add(word)
        if use.depth is None and use.when is not None and not self.evaluator.condition(use.when, site.at("when")):
            return [], shape
        if site.name is None and use.name is not None:
            name = self.namer.explicit(use.name, site.at("name"))
            return site.names.remember(name, self._named(use, word, site.called(name)))
        return self._named(use, word, site)

    def _named(self, use: Use, word: str, site: Site) -> Built:
        """Return the nodes of a use, after claiming its name if it has one."""
        if use.depth is None:
            return self._once(use, word, site)
        depth = self.evaluator.count(use.depth, site.at("depth"), "depth", 1 if site.frame.block is None else 0)
        return self._copies(use, word, depth, site)

    def _once(self, use: Use, word: str, site: Site) -> Built:
        block, name = self.spec.blocks[word], site.name
        if name is None and not block.inline:
            if not site.names.numbered:
                help = f"write '- name: {{block: {word}}}', or mark the block 'inline: true' to make it a macro"
                raise self.report.blamed("E0404", f"block '{word}' needs a name here", site, help)
            name = self.namer.automatic(word, site)
        self.context.build(site)
        inner = self.bind(use, word, site, {})
        if name is None:
            names = self.namer.of_macro(block.body, site)
        else:
            names = self.namer.scope(block.body, numbered=block.inline)
        nodes, output = self._body(inner, site, names, shared=name is not None)
        return [self._series(use, nodes, output, name, inner, site)], output

    def _copies(self, use: Use, word: str, depth: int, site: Site) -> Built:
        block, name = self.spec.blocks[word], site.name
        template, members = use.members, (*site.path, "members")
        if template is None:
            template, members = block.members, ("blocks", word, "members")
        spliced = name is None and block.inline and use.members is None
        steady = not self._copies_differ(use, word)
        if name is None and not spliced and template is None and not site.names.numbered:
            help = f"write '- name: {{block: {word}, depth: ...}}'"
            raise self.report.blamed("E0404", f"the repeated block '{word}' needs a name here", site, help)
        if not (
            steady and name is not None and template is None and use.when is None
        ):  # each copy is at least one part
            self.context.check_limits(site.at("depth"), built=self.context.built + depth, raw=use.depth)
        scope = site.names if name is None else Names()
        around = self.namer.of_macro(block.body, site) if spliced else scope
        shape, nodes = site.shape, []
        for index in range(depth):
            before = self.context.counted
            frame = site.frame.with_values(index=index, depth=depth)
            here = Site(site.path, frame, shape, site.names, site.kept)
            if use.when is not None and not self.evaluator.condition(use.when, here.at("when")):
                continue
            self.context.build(here)
            inner = self.bind(use, word, here, {"index": index, "depth": depth})
            member = None
            if not spliced:
                if name is None and site.names.numbered and template is None:
                    member = self.namer.automatic(word, site)
                else:
                    named_in = inner if template is block.members else frame
                    member = self.namer.spelled(template or "{index}", here.within(named_in, members))
                    self.namer.claim(member, Site(members, frame, shape, scope, site.kept), template or "{index}")
            names = around if member is None else self.namer.scope(block.body, numbered=block.inline)
            known = site.kept.shared(block.values)
            inside, output = self._body(inner, here, names, shared=member is not None)
            nodes.append(self._series(use, inside, output, member, inner, here))
            same = output == shape and site.kept.shared(block.values) == known
            if steady and 0 < index < depth - 1 and same:  # all others are like this one
                others = range(index + 1, depth)
                self.context.foresee(here.at("depth"), use.depth, before, len(others), shared=member is not None)
                if name is not None and template is None:
                    nodes += self._again(nodes[-1], others, before)
                    break
                steady = False
            shape = output
        if name is None:
            return list(nodes), shape
        return [Series(tuple(nodes), site.shape, shape, name, origin=self.context.origin(site.path))], shape

    def _copies_differ(self, use: Use, word: str) -> bool:
        """Return whether the copies of a row may differ from each other, except for the first one and their input."""
        block = self.spec.blocks[word]
        defaults = [parameter.default for parameter in block.parameters.values()]
        written = [use.arguments, use.when, self.spec.defaults.get(word, {}), defaults, block.when]
        return self.varies(word) or _differs_among_copies(written)

    def _again(self, copy: Series, indices: range, before: Counted) -> list[Series]:
        """Return the same nodes for the other copies, renumbered."""
        self.context.repeat(before, len(indices))
        assert copy.call is not None
        return [replace(copy, name=str(index), call=replace(copy.call, index=index)) for index in indices]

    def _series(
        self, use: Use, nodes: Sequence[Node], output: Shape, name: str | None, inner: Frame, site: Site
    ) -> Series:
        """Return the nodes of one copy, with the call that produced them."""
        assert inner.word is not None
        assert inner.block is not None
        values, hints = inner.values, self.context.hints(site.path, {**use.arguments, "depth": use.depth})
        arguments = {name: values[name] for name in inner.block.parameters}
        call = Call(
            inner.word,
            arguments,
            self._literals[inner.word],
            hints,
            values.get("index"),
            values.get("depth"),
            tuple(inner.block.values),
        )
        return Series(
            tuple(nodes), site.shape, output, name, call, self.context.origin(site.path), _condition(use, site)
        )

    def _body(self, frame: Frame, site: Site, names: Names, shared: bool) -> Built:
        """Return the nodes of a block for one set of arguments; earlier ones are reused if copies in separate scopes
        have equal arguments, and the values that the block names have equal shapes."""
        word, block = frame.word, frame.block
        assert word is not None
        assert block is not None
        shape, kept = site.shape, Kept(site.kept, block.values)
        inside = Site(frame.path, frame, shape, names, kept)
        built: Built = [], shape
        key = None
        if shared:
            varies = self.varies(word)
            values = tuple((k, _frozen(v)) for k, v in frame.values.items() if varies or k not in _VARYING)
            known = tuple(site.kept.shared(block.values).items())
            key = word, names.numbered, shape, values, known
            if key in self._shared and not any(map(kept.keeps_outside, self._shared[key][1])):
                built, written, nodes, parameters = self._shared[key]
                for each, kept_shape in written.items():
                    kept.keep(each, kept_shape)
                self.context.grow(inside.within(frame, frame.use), nodes, parameters)
                return built
        nodes, parameters = self.context.nodes, self.context.parameters
        if block.when is None or self.evaluator.condition(block.when, inside.at("when")):
            built = self.steps(block.body, inside.at("body"))
        if key is not None:
            self._shared[key] = built, kept.written, self.context.nodes - nodes, self.context.parameters - parameters
        return built

    def varies(self, word: str) -> bool:
        """Return whether the body of a block depends on its position among the copies: through a name, or a value per
        block."""
        if word not in self._varying:
            block = self.spec.blocks[word]
            self._varying[word] = self._defaults_vary or _differs_among_copies([block.when, block.let, block.body])
        return self._varying[word]

    def bind(self, use: Use, word: str, site: Site, copy: Mapping[str, int]) -> Frame:
        """Return the frame of one use: every bound parameter (row > defaults > block), then every let."""
        block = self.spec.blocks[word]
        inner = Frame(
            {"in_channels": site.shape[0], **copy}, ("blocks", word), site.path,
            self._words[word], block, word, site.frame, nesting=site.frame.nesting + 1,
        )  # fmt: skip
        for unknown in use.arguments.keys() - block.parameters.keys():
            help = (
                nearest(unknown, block.parameters)
                or f"{word} takes {one_of(sorted(block.parameters) or ['no arguments'], 'and')}"
            )
            message = f"{word} has no argument '{unknown}'"
            raise self.report.blamed("E0402", message, site.at(unknown), help)
        inside = Site(inner.path, inner, site.shape, site.names, site.kept)
        for name, definition, written in self._written(use, word, site, copy):
            if written is None:
                raw, where = definition.default, inside.at("parameters", name)
                given = {**use.arguments, **self.spec.defaults.get(word, {})}
                if definition.only and copy.get("depth", 1) > 1 and name not in given and name in strides(block.body):
                    self._check_stride(definition, name, where)
            else:
                raw, where = self.evaluator.for_copy(*written, copy, f"{word}.{name}")
                inner.given[name] = Given(where.path, where.frame, raw)
            words = definition.words(self.context.block_words) if isinstance(raw, str | list) else ()
            value = self.evaluator.evaluate(raw, where, words)
            inner.values[name] = self.evaluator.argument(value, definition, name, where, raw)
        for name, raw in block.let.items():
            inner.values[name] = self.evaluator.evaluate(raw, inside.at("let", name))
        return inner

    def _check_stride(self, definition: ParameterDefinition, name: str, site: Site) -> None:
        """Raise a problem if a stride meant for the first copy is the default, and so the stride of all copies."""
        default = definition.default
        if isinstance(default, str) or default in (1, [1, 1]):
            return
        message = f"'{name}' would be {show(default)} in every copy: 'only: first' limits an argument, not the default"
        help = f"make the default 1, and write {name}: {show(default)} in the row"
        raise self.report.blamed("E0409", message, site, help)

    def _written(
        self, use: Use, word: str, site: Site, copy: Mapping[str, int]
    ) -> Iterator[tuple[str, ParameterDefinition, tuple[Any, Site] | None]]:
        """Yield each parameter with its value as the user wrote it, and where; None if the block's default
        applies."""
        arguments, defaults = use.arguments, self.spec.defaults.get(word, {})
        for name, definition in self.spec.blocks[word].parameters.items():
            written = None
            if name in arguments:
                written = arguments[name], site.at(name)
            elif name in defaults:
                written = defaults[name], self.context.defaults(word, name, site, copy)
            elif definition.default is None:
                raise self.report.blamed("E0403", f"block '{word}' needs '{name}'", site)
            later = definition.only == "first" and copy.get("index")
            if written is not None and later and not isinstance(written[0], Each | FirstRest):
                written = None
            yield name, definition, written


def _condition(use: Use, site: Site) -> str | None:
    """Return the condition under which a use is there: its own, and that its parameter is a block, if it names one."""
    own = None if use.when is None else str(use.when)
    block = site.frame.block
    if block is None or use.block not in block.parameters:
        return own
    chosen = f"{use.block} != identity"
    return chosen if own is None else f"{chosen} and ({own})"


def _frozen(value: Value) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else (type(value), value)


def _differs_among_copies(value: Any) -> bool:
    """Return whether steps or values mention the position among the copies, or contain a value per copy."""
    return not _VARYING.isdisjoint(mentions(value))

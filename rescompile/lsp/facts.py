"""What the compiled network knows of a place in the text: the nodes it became, and the values of its expressions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from rescompile.analysis import tree_table
from rescompile.analysis.cost import cost
from rescompile.elaboration.evaluator import sizes_of
from rescompile.ir.expressions import ExpressionError, parse, show
from rescompile.ir.network import Network, Node, Op, Series, Side, walk
from rescompile.ir.ops.op import size_text
from rescompile.lang.spec.spec import Spec
from rescompile.lsp.value_walker import Mention

#: Shapes and values that are listed; more are counted.
_LISTED = 6


class _Anything:
    """The words of an expression where any word may mean itself."""

    def __contains__(self, _: object) -> bool:
        return True


class Facts:
    """The nodes of a network by the line they came from, by name, and by block."""

    def __init__(self, spec: Spec, network: Network) -> None:
        self.spec, self.network = spec, network
        self.by_line: dict[tuple[str, int], dict[int, Node]] = defaultdict(dict)
        self.by_name: dict[str, Node] = {}
        self.by_block: dict[str, dict[int, Series]] = defaultdict(dict)
        for name, node in walk(network.root):
            if node.origin is not None:
                self.by_line[node.origin.file, node.origin.line].setdefault(id(node), node)
            if name and not isinstance(node, Side):
                self.by_name.setdefault(name, node)
            if isinstance(node, Series) and node.call is not None:
                self.by_block[node.call.block].setdefault(id(node), node)

    def nodes(self, mention: Mention) -> list[Node]:
        """Return the nodes that the step around a place became, or none."""
        path = ".".join(map(str, mention.path))
        found = self.by_line.get((mention.place.source.name, mention.place.line), {}).values()
        paths = {id(node): node.origin.path for node in found if node.origin is not None}
        if mention.path[:1] != ("set",):  # what `set` changes is at another path
            paths = {key: each for key, each in paths.items() if _related(each, path)}
        shortest = min(map(len, paths.values()), default=0)
        return [node for node in found if len(paths.get(id(node), "")) == shortest > 0]

    def values(self, text: str, mention: Mention) -> list[Any]:
        """Return the different values of an expression at a place, in the order of the network."""
        found = []
        for scope in self._scopes(mention):
            try:
                value = parse(text).evaluate(scope, _Anything())
            except ExpressionError:
                continue
            if value not in found:
                found.append(value)
        return found

    def _scopes(self, mention: Mention) -> Iterator[Mapping[str, Any]]:
        """Yield the values of names at a place: once for the network's own, or once for each use of the block around."""
        if mention.frame:
            for call in self.by_block.get(mention.frame, {}).values():
                inside = self.scope_of(call)
                yield from self._steps(call, inside, mention) if "body" in mention.path else (inside,)
            return
        for node in self.nodes(mention) or [self.network.root]:
            yield {**self._sizes(node), **_copy(node), **self.parameters}

    def _steps(self, call: Series, inside: dict[str, Any], mention: Mention) -> Iterator[Mapping[str, Any]]:
        """Yield the values that the step around a place sees in one use of its block, whose body has `inside`."""
        place, path = mention.place, ".".join(map(str, mention.path))
        for _, node in walk(call):
            origin = node.origin
            if (
                origin is not None
                and (origin.file, origin.line) == (place.source.name, place.line)
                and _related(origin.path, path)
            ):
                yield {**inside, **self._sizes(node)}

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the values of the parameters of the network."""
        scope: dict[str, Any] = {}
        for name, raw in self.spec.parameters.items():
            scope[name] = self._evaluated(raw, scope)
        return scope

    def scope_of(self, node: Series) -> dict[str, Any]:
        """Return the values that the body of one use of a block sees."""
        assert node.call is not None
        scope = {**self._sizes(node), **node.call.arguments, **_copy(node)}
        block = self.spec.blocks.get(node.call.block)
        for name, raw in (block.let if block is not None else {}).items():
            scope[name] = self._evaluated(raw, scope)
        return scope

    def _evaluated(self, raw: Any, scope: Mapping[str, Any]) -> Any:
        if isinstance(raw, list):
            return [self._evaluated(item, scope) for item in raw]
        try:
            return parse(raw).evaluate(scope, _Anything()) if isinstance(raw, str) else raw
        except ExpressionError:
            return raw

    def _sizes(self, node: Node) -> dict[str, Any]:
        return {"in_channels": node.input[0], **sizes_of(node.input)}


def _copy(node: Node) -> dict[str, int]:
    """Return the number of a copy and that of all copies, where `depth` repeats a block."""
    call = node.call if isinstance(node, Series) else None
    return (
        {} if call is None or call.index is None or call.depth is None else {"index": call.index, "depth": call.depth}
    )


def _related(origin: str, path: str) -> bool:
    """Return whether one path is around the other."""
    one, other = f"{origin}.", f"{path}."
    return one.startswith(other) or other.startswith(one)


def described(nodes: list[Node]) -> str:
    """Return what nodes are, their shapes, and what they cost, as Markdown; those with equal facts once."""
    lines = list(dict.fromkeys(_described(node) for node in nodes))
    more = [f"... and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return "\n\n".join([*lines[:_LISTED], *more])


def _described(node: Node) -> str:
    total = cost(node.child if isinstance(node, Side) else node)
    what = tree_table.describe(node) if not isinstance(node, Op) else node.kind.word
    output = node.child.output if isinstance(node, Side) else node.output
    costs = f"{total.parameters:,} parameters, {tree_table.count(total.macs)} MACs"
    return f"`{what}`: {size_text(node.input)} → {size_text(output)}, {costs}, {tree_table.count(total.activations)}B of activations"


def listed(values: list[Any]) -> str:
    """Return values as one line of text."""
    shown = [f"`{show(value)}`" for value in values]
    return ", ".join(shown if len(shown) <= _LISTED else [*shown[: _LISTED - 1], "...", shown[-1]])

"""What the lesions of Veit et al. 2016 share: the parts that a user names, their residuals and layers, and the errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, takewhile

from rescompile.analysis.residuals import residuals
from rescompile.diagnostics.errors import Diagnostic, Place, Source, UsageError, nearest
from rescompile.ir.network import (
    Network,
    Node,
    Op,
    Parallel,
    Series,
    Side,
    children,
    join,
    name_of,
    scope_of,
    walk,
)
from rescompile.ir.ops import Act, Conv, Dropout, Linear, Norm
from rescompile.ir.traversal import FoldRules, fold, rewrite

UNKNOWN, NO_RESIDUAL, UNLIKE = "E0806", "E0807", "E0808"
_NO_BLOCK = "not a residual block"
#: The number of names that a message lists before it counts the others.
LISTED = 6


@dataclass(frozen=True, slots=True)
class Part:
    """A node that has a name: its full one, and where the user wrote it."""

    path: str
    node: Node
    place: Place | None = None

    @property
    def scope(self) -> str:
        """The scope that the node lives in."""
        return scope_of(self.path)


@dataclass(frozen=True, slots=True)
class Lesion:
    """What a part loses: `put` maps the full names of the nodes that are removed to the nodes in their place; `inside` are
    the names inside them."""

    put: dict[str, tuple[Node, ...]]
    inside: frozenset[str]


def parts(node: Node, path: str = "") -> Iterator[Part]:
    """Every named node in a node that lives in the scope `path`, parents first."""
    return (Part(full, inner) for full, inner in walk(node, path) if name_of(inner) is not None)


def residual_blocks(network: Network) -> list[str]:
    """What can be dropped, by the names that users know: the innermost part around each residual and no other one."""
    blocks = {}
    for part in parts(network.root):
        inside = residuals(part.node, part.scope)
        if len(inside) == 1 and (isinstance(part.node, Series) or inside[0] not in blocks):
            blocks[inside[0]] = part.path  # parents come first, so the last one stays
    return list(blocks.values())


def layers(network: Network) -> dict[str, list[Node]]:
    """The plain layers by the names that drop them, in execution order: each convolution or linear layer outside of merges
    with the norm, activation and dropout right after it, and each part that consists of such layers."""
    listed: Layers = fold(network.root, _LAYERS)
    return dict(listed)


Layers = list[tuple[str, list[Node]]]


def _layers(path: str, series: Series, inside: Sequence[Layers]) -> Layers:
    listed: Layers = []
    for at, (child, nested) in enumerate(zip(series.children, inside, strict=True)):
        if _weighted(child):
            following = (
                node for node in series.children[at + 1 :] if not isinstance(node, Side)
            )  # a tap ends no layer
            listed.append((join(path, name_of(child)), [child, *takewhile(_completes, islice(following, 3))]))
        elif isinstance(child, Series) and child.name and _plain(child):
            listed.append((join(path, child.name), [child]))
        listed += nested
    return listed


_LAYERS = FoldRules[Layers](lambda *_: [], _layers, lambda *_: [], lambda *_: [])


def _weighted(node: Node) -> bool:
    return isinstance(node, Op) and isinstance(node.kind, Conv | Linear)


def _completes(node: Node) -> bool:
    """Whether a node belongs to the layer before it."""
    return isinstance(node, Op) and isinstance(node.kind, Norm | Act | Dropout)


def _plain(series: Series) -> bool:
    """Whether a series consists of layers one after the other."""
    inside = [node for _, node in walk(series)]
    return any(map(_weighted, inside)) and not any(isinstance(node, Parallel | Side) for node in inside)


def plain_layers(network: Network) -> list[str]:
    """The single layers that can be dropped: those that keep the shape."""
    listed = layers(network).items()
    return [name for name, nodes in listed if isinstance(nodes[0], Op) and nodes[0].input == nodes[-1].output]


def lesion_of(network: Network, part: Part) -> Lesion:
    """What dropping a part removes: its residual branch, or all of it where it is a plain layer that keeps the shape.

    Raises UsageError for any other part.
    """
    nodes = layers(network).get(part.path)
    if nodes is not None and nodes[0].input == nodes[-1].output:
        inside = {path for node in nodes for path, _ in walk(node, part.scope)}
        names = [join(part.scope, name_of(node)) for node in nodes]
        return Lesion(dict.fromkeys(names, ()), frozenset(inside - set(names)))
    name = residual_of(network, part)
    merge = next(other for other in parts(part.node, part.scope) if other.path == name)
    *branches, shortcut = children(merge.node)
    inside = {path for branch in branches for path, _ in walk(branch, merge.scope) if path}
    return Lesion({name: children(shortcut)}, frozenset(inside))


def replaced(network: Network, put: Mapping[str, Sequence[Node]]) -> Network:
    """The network with other nodes in place of those that `put` names."""
    root = rewrite(network.root, lambda path, node: put.get(path, (node,)) if name_of(node) is not None else node)
    return replace(network, root=root)


def named(network: Network, option: str, value: str) -> list[Part]:
    """The parts that the value of an option lists. Raises UsageError for unknown names, all of them at once."""
    source = Source(f"--{option}", value)
    known = {part.path: part for part in parts(network.root)}
    found: list[Part] = []
    problems: list[Diagnostic] = []
    at = 0
    for name in value.split(","):
        place = Place.at(source, at).part(0, 1) if not name else Place(source, 1, at + 1, at + 1 + len(name))
        at += len(name) + 1
        if name not in known:
            what = f"the network has no part '{name}'" if name else "a name is missing here"
            problems.append(Diagnostic(UNKNOWN, what, place, help=_instead(network, name)))
        elif any(name == part.path for part in found) and option == "drop":
            problems.append(Diagnostic(UNKNOWN, f"'{name}' is named twice", place))
        else:
            found.append(replace(known[name], place=place))
    if problems:
        raise UsageError(problems)
    return found


def residual_of(network: Network, part: Part) -> str:
    """The full name of the one residual in a part. Raises UsageError where there is none, or several."""
    inside = residuals(part.node, part.scope)
    if len(inside) == 1:
        return inside[0]
    if inside:
        blocks = [name for name in residual_blocks(network) if name.startswith(f"{part.path}.")] or inside
        message = f"'{part.path}' is ambiguous: it has {len(inside)} residual branches"
        raise UsageError(Diagnostic(NO_RESIDUAL, message, part.place, help=f"name one of {listed(blocks)}"))
    message = f"'{part.path}' is {_why_not(part.node)}"
    raise UsageError(Diagnostic(NO_RESIDUAL, message, part.place, _origin(part.node), help=_around(network, part.path)))


def _why_not(node: Node) -> str:
    """What a part is that cannot be dropped."""
    if any(isinstance(inner.node, Parallel) and inner.node.merge == "concat" for inner in parts(node)):
        return f"{_NO_BLOCK}: its branches are concatenated, not added to a shortcut, and later layers read them as channels"
    if node.input != node.output:
        change = f"maps {list(node.input)} to {list(node.output)}"
        return f"{_NO_BLOCK}: it {change}, and has no shortcut that could do so in its place"
    if isinstance(node, Op) and not isinstance(node.kind, Conv | Linear):
        return "neither a residual block nor a convolution or linear layer"
    return f"{_NO_BLOCK}: it has no shortcut, so no path would be left"


def _around(network: Network, path: str) -> str:
    """What could be named instead of a part without a residual: the block that it is in, or any."""
    blocks = residual_blocks(network)
    for block in blocks:
        if path.startswith(f"{block}."):
            return f"it is inside the residual block '{block}'"
    if blocks:
        return f"the residual blocks are {listed(blocks)}"
    plain = plain_layers(network)
    what = f"the layers that keep the shape can be dropped: {listed(plain)}" if plain else "nothing can be dropped"
    return f"this network has no residual blocks; {what}"


def _instead(network: Network, name: str) -> str:
    known = [part.path for part in parts(network.root)]
    blocks = residual_blocks(network) or plain_layers(network)
    return nearest(name, blocks) or nearest(name, known) or _around(network, "")


def _origin(node: Node) -> tuple[str, ...]:
    """Where a part was defined, as a note."""
    if isinstance(node, Side) or node.origin is None:
        return ()
    return (f"defined by {node.origin.path} in {node.origin.file}:{node.origin.line}",)


def listed(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    shown = ", ".join(names[:LISTED])
    return f"{shown} and {len(names) - LISTED} more" if len(names) > LISTED else shown

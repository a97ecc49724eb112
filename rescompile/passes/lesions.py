"""Code that the lesions of Veit et al. 2016 share: the parts that a user names, their residuals and layers, and the errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, takewhile

from rescompile.analysis.residuals import residuals
from rescompile.diagnostics.errors import Diagnostic, Place, Source, UsageError, nearest
from rescompile.ir.network import (
    Again,
    Keep,
    Network,
    Node,
    Op,
    Parallel,
    Recall,
    Series,
    Side,
    children,
    join,
    name_of,
    scope_of,
    walk,
)
from rescompile.ir.ops import WEIGHTED, Act, Dropout, Norm
from rescompile.ir.refitting import parts_of, runs_again
from rescompile.ir.traversal import FoldRules, fold, rewrite
from rescompile.records import record

UNKNOWN, NO_RESIDUAL, UNLIKE = "E0806", "E0807", "E0808"
_NO_BLOCK = "not a residual block"
#: The number of names that a message lists before it counts the others.
LISTED = 6


@record
class Part:
    """A named node: its full name, and where the user typed it."""

    path: str
    node: Node
    place: Place | None = None

    @property
    def scope(self) -> str:
        """The scope that contains the node."""
        return scope_of(self.path)


@record
class Lesion:
    """The change of a lesion: `put` maps the full names of removed nodes to what replaces them, as a function of the node after
    the lesions inside it; `inside` contains the names of the nodes inside that are removed too."""

    put: dict[str, Callable[[Node], Sequence[Node]]]
    inside: frozenset[str]


def parts(node: Node, path: str = "") -> Iterator[Part]:
    """Return every named node in a node that lives in the scope `path`, parents first."""
    return (Part(full, inner) for full, inner in walk(node, path) if name_of(inner) is not None)


def residual_blocks(network: Network) -> list[str]:
    """Return what can be dropped, by the names that users know: the innermost part that contains exactly this residual."""
    blocks = {}
    for part in parts(network.root):
        inside = residuals(part.node, part.scope)
        if len(inside) == 1 and (isinstance(part.node, Series) or inside[0] not in blocks):
            blocks[inside[0]] = part.path  # parents come first, so the last one stays
    return list(blocks.values())


def layers(network: Network) -> dict[str, list[Node]]:
    """Return the plain layers by the names that drop them, in execution order: each convolution or linear layer outside of
    merges with the norm, activation and dropout right after it, and each part that consists of such layers."""
    listed: Layers = fold(network.root, _LAYERS)
    return dict(listed)


Layers = list[tuple[str, list[Node]]]


def _layers(path: str, series: Series, inside: Sequence[Layers]) -> Layers:
    listed: Layers = []
    for at, (child, nested) in enumerate(zip(series.children, inside, strict=True)):
        if _weighted(child):
            # An output does not end a layer.
            following = (node for node in series.children[at + 1 :] if not isinstance(node, Side))
            listed.append((join(path, name_of(child)), [child, *takewhile(_completes, islice(following, 3))]))
        elif isinstance(child, Series) and child.name and _plain(child):
            listed.append((join(path, child.name), [child]))
        listed += nested
    return listed


_LAYERS = FoldRules[Layers](lambda *_: [], _layers, lambda *_: [], lambda *_: [], lambda *_: [])


def _weighted(node: Node) -> bool:
    return isinstance(node, Op) and isinstance(node.kind, WEIGHTED)


def _completes(node: Node) -> bool:
    """Return whether a node belongs to the layer before it."""
    return isinstance(node, Op) and isinstance(node.kind, Norm | Act | Dropout)


def _plain(series: Series) -> bool:
    """Return whether a series consists of layers one after the other."""
    inside = [node for _, node in walk(series)]
    return any(map(_weighted, inside)) and not any(
        isinstance(node, Parallel | Side | Keep | Recall | Again) for node in inside
    )


def plain_layers(network: Network) -> list[str]:
    """Return the single layers that can be dropped: those that keep the shape."""
    listed = layers(network).items()
    return [name for name, nodes in listed if isinstance(nodes[0], Op) and nodes[0].input == nodes[-1].output]


def lesion_of(network: Network, part: Part) -> Lesion:
    """Return what dropping a part removes: its residual branch, or all of it if it is a plain layer that keeps the shape.

    Raises UsageError for any other part.
    """
    nodes = layers(network).get(part.path)
    if nodes is not None and nodes[0].input == nodes[-1].output:
        if len(nodes) > 1 and any(map(runs_again(network.root), (join(part.scope, name_of(node)) for node in nodes))):
            message = f"'{part.path}' or an op that belongs to it runs again elsewhere, so it is not a single layer"
            raise UsageError.of(NO_RESIDUAL, message, part.place, _origin(part.node))
        inside = {path for node in nodes for path, _ in walk(node, part.scope)}
        names = [join(part.scope, name_of(node)) for node in nodes]
        return Lesion(dict.fromkeys(names, _nothing), frozenset(inside - set(names)))
    name = residual_of(network, part)
    merge = next(other for other in parts(part.node, part.scope) if other.path == name)
    *branches, _ = children(merge.node)
    inside = {path for branch in branches for path, _ in walk(branch, merge.scope) if path}
    return Lesion({name: _shortcut}, frozenset(inside))


def _nothing(_: Node) -> Sequence[Node]:
    return ()


def _shortcut(merge: Node) -> Sequence[Node]:
    return children(children(merge)[-1])


def replaced(network: Network, put: Mapping[str, Callable[[Node], Sequence[Node]]]) -> Network:
    """Return the network with other nodes in place of those that `put` names."""

    def other(path: str, node: Node) -> Node | Sequence[Node]:
        return put[path](node) if name_of(node) is not None and path in put else node

    return replace(network, root=_owned(rewrite(network.root, other)))


def _owned(root: Series) -> Series:
    """Return the tree with each step that runs again, but no longer stands anywhere, in the first place where it runs."""
    present = {path for path, _ in walk(root)}

    def own(path: str, node: Node) -> Node | tuple[Node, ...]:
        if not isinstance(node, Again):
            return node
        names = {join(path, name_of(part)) for part in parts_of(node)}
        if names <= present:
            return node
        present.update(names)
        return node.child.children

    return rewrite(root, own)


def named(network: Network, option: str, value: str) -> list[Part]:
    """Return the parts that the value of an option lists. Raises UsageError for unknown names, all of them at once."""
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
    """Return the full name of the one residual in a part. Raises UsageError if there is none, or several."""
    inside = residuals(part.node, part.scope)
    if len(inside) == 1:
        return inside[0]
    if inside:
        blocks = [name for name in residual_blocks(network) if name.startswith(f"{part.path}.")] or inside
        message = f"'{part.path}' is ambiguous: it has {len(inside)} residual branches"
        raise UsageError.of(NO_RESIDUAL, message, part.place, help=f"name one of {listed(blocks)}")
    message = f"'{part.path}' is {_why_not(part.node)}"
    raise UsageError.of(NO_RESIDUAL, message, part.place, _origin(part.node), help=_around(network, part.path))


def _why_not(node: Node) -> str:
    """Return what a part is, for the error that it cannot be dropped."""
    if any(isinstance(inner.node, Parallel) and inner.node.merge == "concat" for inner in parts(node)):
        return f"{_NO_BLOCK}: its branches are concatenated, not added to a shortcut, and later layers read them as channels"
    if node.input != node.output:
        change = f"maps {list(node.input)} to {list(node.output)}"
        return f"{_NO_BLOCK}: it {change}, and has no shortcut that could do so in its place"
    if any(isinstance(inner, Keep | Recall) for _, inner in walk(node)):
        return f"{_NO_BLOCK}: it has no shortcut, and it keeps or uses a value"
    if isinstance(node, Op) and not isinstance(node.kind, WEIGHTED):
        return "neither a residual block nor a convolution or linear layer"
    return f"{_NO_BLOCK}: it has no shortcut, so no path would be left"


def _around(network: Network, path: str) -> str:
    """Return the help for a part without a residual: the block that contains it, or any block."""
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
    """Return where a part was defined, as a note."""
    if isinstance(node, Side) or node.origin is None:
        return ()
    return (f"defined by {node.origin.path} in {node.origin.file}:{node.origin.line}",)


def listed(names: Sequence[str]) -> str:
    """Return the first of the names, and how many more there are."""
    shown = ", ".join(names[:LISTED])
    return f"{shown} and {len(names) - LISTED} more" if len(names) > LISTED else shown

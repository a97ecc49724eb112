"""What becomes of a named part: a class, a row of copies, or a plain list of modules; and which parts are of one kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rescompile.codegen.class_plan import Class, Stage
from rescompile.codegen.naming import python_name
from rescompile.ir.expressions import Term
from rescompile.ir.names import BUILTINS
from rescompile.ir.network import Network, Node, Op, Parallel, Series, Side, walk


@dataclass
class Made:
    """A class, with the values of its arguments in each instance by id, and its output channels as a term."""

    text: Class
    values: dict[int, dict[str, Any]]
    out: Term


@dataclass
class MadeStage:
    """A stage, with the values of its arguments in each row by the id of its first copy, and the channels after it."""

    text: Stage
    values: dict[int, dict[str, Any]]
    out: Term


@dataclass
class Kinds:
    """What has been made so far: the class of each instance by its id, and the stage of each row by the id of its first copy."""

    network: Network
    unrolled: bool = False
    made: dict[int, Made] = field(default_factory=dict)
    stages: dict[int, MadeStage] = field(default_factory=dict)

    @cached_property
    def variables(self) -> frozenset[str]:
        """Every name that stands for a value somewhere in the definitions, and so is never a word."""
        listed = (name for d in self.network.definitions.values() for name in (*d.parameters, *d.lets))
        return BUILTINS | {"depth"} | frozenset(listed) | frozenset(self.network.parameters)

    @cached_property
    def bundles(self) -> dict[int, Series]:
        """The parts that are copies of one part side by side, which are written once, by id."""
        # What is computed again for backward, a merge says itself: then its branches are written out.
        if self.unrolled or self.network.checkpoint:
            return {}
        return {id(part): part for _, part in walk(self.network.root) if isinstance(part, Series) and is_bundle(part)}

    @cached_property
    def copies(self) -> dict[int, str]:
        """The copies that stand side by side, by id, with the name of the part that they are."""
        return {id(copy): str(part.name) for part in self.bundles.values() for copy in bundled(part)}

    def python_name(self, name: str) -> str:
        """What a name of the spec is called in the file."""
        return python_name(name, self.variables)

    def is_class(self, series: Series) -> bool:
        """Whether a part becomes an instance of a class."""
        if series.name is None or self.is_bundle(series):
            return False
        if id(series) in self.copies:
            return True
        if series.call is not None:
            return series.call.index is not None or not (is_list(series) and numbered(series))
        return not is_row(series) and not is_list(series)

    def is_bundle(self, series: Series) -> bool:
        """Whether a part is copies of one part side by side, which are written once."""
        return id(series) in self.bundles


def is_bundle(series: Series) -> bool:
    """Whether a part is nothing but copies of one part side by side, called 0, 1, 2 and so on, and their sum or concat."""
    if series.name is None or not series.name.isidentifier() or series.call is not None or len(series.children) != 1:
        return False
    (merge,) = series.children
    if not isinstance(merge, Parallel) or merge.merge not in ("add", "concat") or merge.survival:
        return False
    copies = [branch.children[0] for branch in merge.branches if len(branch.children) == 1]
    parts = [copy for copy in copies if isinstance(copy, Series)]
    return (
        [part.name for part in parts] == [str(at) for at in range(len(merge.branches))]
        and not taps(series)
        and all(part.children == parts[0].children for part in parts)
    )


def bundled(bundle: Series) -> list[Series]:
    """The copies in a bundle."""
    (merge,) = bundle.children
    assert isinstance(merge, Parallel)
    copies = [branch.children[0] for branch in merge.branches]
    return [copy for copy in copies if isinstance(copy, Series)]


def is_row(series: Series) -> bool:
    """Whether a part is nothing but copies of one step."""
    copies = [c for c in series.children if isinstance(c, Series) and c.name is not None and c.call is not None]
    return (
        not any(taps(child) for child in series.children)
        and series.call is None
        and len(copies) == len(series.children) > 0
        and [copy.call.index for copy in copies if copy.call] == list(range(len(copies)))
        and len({copy.origin for copy in copies}) == 1
    )


def taps(node: Node) -> bool:
    """Whether an output comes from inside a node."""
    return any(isinstance(part, Side) for _, part in walk(node))


def is_list(series: Series) -> bool:
    """Whether a part is modules one after the other, each with a name: no merge, no side branch."""
    return not any(taps(child) for child in series.children) and all(
        isinstance(child, Op)
        or (isinstance(child, Series) and not is_bundle(child) and (child.name is not None or is_list(child)))
        for child in series.children
    )


def numbered(series: Series) -> bool:
    """Whether the modules of a list are called 0, 1, 2 and so on."""
    return names(series) == [str(at) for at in range(len(names(series)))]


def names(series: Series) -> list[str]:
    """The names in the scope of a list."""
    found: list[str] = []
    for child in series.children:
        if isinstance(child, Series) and child.name is None:
            found += names(child)
        elif isinstance(child, Op | Series) and child.name is not None:
            found.append(child.name)
    return found


def segments(row: Series, kinds: Kinds) -> list[tuple[Made, list[Series]]]:
    """The copies of a row, those of one class that follow each other together."""
    found: list[tuple[Made, list[Series]]] = []
    for child in row.children:
        assert isinstance(child, Series)
        made = kinds.made[id(child)]
        if found and found[-1][0] is made:
            found[-1][1].append(child)
        else:
            found.append((made, [child]))
    return found


def skeleton(node: Node, kinds: Kinds) -> Any:
    """Everything of a node that no argument can express: two of one skeleton fit into one class."""
    match node:
        case Op():
            words = [getattr(node.kind, name) for name in WORDS if hasattr(node.kind, name)]
            return type(node.kind), node.name, tuple(words)
        case Parallel():
            how = (node.survival.unit, node.survival.rescale) if node.survival else None
            return node.merge, node.residual, node.split, how, inside(node.branches, kinds)
        case Side():
            return node.mode, node.output_name, skeleton(node.child, kinds)
        case Series() if kinds.is_bundle(node):
            return node.name, type(node), len(bundled(node)), skeleton(bundled(node)[0], kinds)
        case Series() if kinds.is_class(node):
            return node.name, id(kinds.made[id(node)])
        case Series() if is_row(node):
            return node.name, tuple((id(made), len(copies) > 1) for made, copies in segments(node, kinds))
        case Series():
            return node.name, inside(node.children, kinds)


def inside(nodes: Sequence[Node], kinds: Kinds) -> tuple[Any, ...]:
    """The skeletons of several nodes."""
    return tuple(skeleton(node, kinds) for node in nodes)


#: Attributes of ops that are part of what an op is, rather than a number.
WORDS = ("kind", "init", "bias_init", "scale_init", "bias")

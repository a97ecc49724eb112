"""The classes and stages planned so far, and which parts of a network fit into one of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from functools import cached_property
from typing import Any, Generic, TypeVar, cast

from rescompile.codegen.class_plan import Class, Stage
from rescompile.codegen.naming import python_name
from rescompile.codegen.roles import Roles, bundled
from rescompile.ir.expressions import Term
from rescompile.ir.names import BUILTINS
from rescompile.ir.network import Again, Keep, Network, Node, Op, Parallel, Recall, Series, Side
from rescompile.ir.provenance import Call, Definition
from rescompile.records import record

T = TypeVar("T", Class, Stage)
_UNDEFINED = Definition({}, {}, None, "", "")

#: Attributes for the initialisation of weights: backends read them from the sample.
INITIAL = frozenset({"init", "init_scale", "bias_init", "scale_init", "slope_init"})
#: Attributes that are part of an op's identity, and so are never an argument of a class.
FIXED = INITIAL | {"bias", "scale", "shift", "ranges", "before", "after"}


@record(slots=False, eq=False)
class Planned(Generic[T]):
    """A class or a stage, and the channels after it as a term. `values` are those of its arguments by the id of each
    instance, or by the ids of the copies of each row."""

    plan: T
    values: dict[Any, dict[str, Any]]
    out: Term


@dataclass
class Registry:
    """The class of each instance by its id, and the stage of each row by the ids of its copies."""

    roles: Roles
    reserved: frozenset[str]
    classes: dict[int, Planned[Class]] = field(default_factory=dict)
    stages: dict[tuple[int, ...], Planned[Stage]] = field(default_factory=dict)

    @property
    def network(self) -> Network:
        """The network whose parts are planned."""
        return self.roles.network

    @cached_property
    def variables(self) -> frozenset[str]:
        """The names with a value anywhere in the definitions; other names in a hint are words."""
        listed = (name for d in self.network.definitions.values() for name in (*d.parameters, *d.lets))
        return BUILTINS | {"depth"} | frozenset(listed) | frozenset(self.network.parameters)

    def python_name(self, name: str) -> str:
        """Return the name in the file for a name in the spec."""
        return python_name(name, self.variables, self.reserved)

    def segments(self, row: Series) -> list[tuple[Planned[Class], list[Series]]]:
        """Return the copies of a row, with neighbours of one class grouped."""
        runs = itertools.groupby(row.children, lambda child: self.classes[id(child)])
        return [(planned, cast(list[Series], list(copies))) for planned, copies in runs]

    def skeleton(self, node: Node) -> Any:
        """Return every property of a node that no argument can express: nodes with equal skeletons fit into one
        class."""
        match node:
            case Op():
                fixed = [getattr(node.kind, each.name) for each in fields(node.kind) if _is_fixed(each)]
                return type(node.kind), node.name, len(node.input), tuple(fixed)
            case Parallel():
                return merge_traits(node), self.skeletons(node.branches)
            case Side():
                return node.mode, node.output_name, self.skeleton(node.child)
            case Again():
                return type(node), node.name
            case Keep() | Recall():
                return type(node), node.key[0], node.key[1] is None
            case Series() if self.roles.is_bundle(node):
                copies = bundled(node)
                return node.name, type(node), len(copies), self.skeleton(copies[0])
            case Series() if self.roles.is_class(node):
                return node.name, id(self.classes[id(node)])
            case Series() if self.roles.is_row(node):
                return node.name, self.pattern(node)
            case Series():
                return node.name, self.skeletons(node.children)

    def skeletons(self, nodes: Sequence[Node]) -> tuple[Any, ...]:
        """Return the skeletons of several nodes."""
        return tuple(self.skeleton(node) for node in nodes)

    def pattern(self, row: Series) -> tuple[Any, ...]:
        """Return the classes of the segments of a row, and which of them are single copies."""
        return tuple((id(planned), len(copies) > 1) for planned, copies in self.segments(row))


def ids(copies: Sequence[Series]) -> tuple[int, ...]:
    """Return the ids of the copies of a row. All are needed: a pass that removes a copy from one of several equal rows leaves
    the others in both."""
    return tuple(map(id, copies))


def definition_of(network: Network, call: Call | None) -> Definition:
    """Return the definition of the block of a call; an empty one without it."""
    return (network.definitions.get(call.block) if call else None) or _UNDEFINED


def merge_traits(node: Parallel) -> tuple[Any, ...]:
    """Return every property of a merge that no argument can express, except its branches."""
    how = (node.survival.unit, node.survival.rescale) if node.survival else None
    return node.merge, node.unit, node.residual, node.split, bool(node.sizes), how


def _is_fixed(attribute: Field[Any]) -> bool:
    """Return whether an attribute of an op is never an argument: one of FIXED, or a word."""
    return attribute.name in FIXED or attribute.metadata["attribute"].type == "word"

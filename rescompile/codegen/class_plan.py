"""The data of a class plan: classes, the items of their bodies, and the stages that repeat them. No framework in here.

Every value is a `Term` that gives the tree's number for every instance; `terms.python` prints it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rescompile.codegen.naming import Counted
from rescompile.ir.expressions import Term
from rescompile.ir.network import Merge, Mode, Network, Op, Parallel, Series
from rescompile.ir.ops import Kind

#: The name of the argument that takes the input channels.
IN = "in_channels"


@dataclass(frozen=True)
class Argument:
    """An argument of a class or a stage, with its Python type and its default, a constant."""

    name: str
    type: str
    default: Term | None = None


@dataclass(frozen=True)
class Layer:
    """An op with its attributes, its input channels, and the condition under which it exists (None: always)."""

    name: str
    kind: type[Kind]
    attributes: Mapping[str, Term]
    channels: Term
    sample: Op
    when: Term | None = None


@dataclass(frozen=True)
class Group:
    """A named sequence of modules."""

    name: str
    items: list[Item]
    when: Term | None = None


@dataclass(frozen=True)
class Run:
    """Modules without a name and without parameters that exist under one condition, such as the option A shortcut."""

    name: str
    items: list[Item]
    when: Term


@dataclass(frozen=True)
class Use:
    """An instance of a class."""

    name: str
    of: Class
    arguments: Mapping[str, Term]
    when: Term | None = None


@dataclass(frozen=True)
class Repeated:
    """Copies of a class that a stage builds."""

    stage: Stage
    arguments: Mapping[str, Term]


@dataclass(frozen=True)
class Row:
    """A named sequence of copies: stages, and single copies whose class differs from that of their neighbours."""

    name: str
    parts: list[Repeated | Use]
    when: Term | None = None


@dataclass(frozen=True)
class Copies:
    """Parallel copies of one part, `count` of them, and their sum or concatenation. All take the same value or, with
    `split`, each takes its own range of the channels."""

    name: str
    use: Use
    count: Term
    merge: Merge
    split: bool


@dataclass(frozen=True)
class Join:
    """Merged branches of one value or, if the sample is split, of its ranges of channels. `survival` is the probability
    with which training keeps the first branch."""

    name: str
    merge: Merge
    branches: list[list[Item]]
    sample: Parallel
    survival: Term | None = None


@dataclass(frozen=True)
class Tap:
    """A side branch, which does not rejoin."""

    items: list[Item]
    output: str | None
    mode: Mode


Item = Layer | Group | Run | Use | Row | Copies | Join | Tap


@dataclass(frozen=True, eq=False)
class Class:
    """A class, with the text that all instances of a block share; `sample` is the first of them, `count` their number.

    `taps` is true where outputs come from inside and are returned beside the result.
    """

    name: str
    doc: str
    reference: str
    sample: Series
    arguments: list[Argument]
    lets: list[tuple[str, Term]]
    items: list[Item]
    count: int
    taps: bool


@dataclass(frozen=True, eq=False)
class Stage:
    """A loop that builds `depth` copies of a class.

    `arguments` are those of the stage, `passed` those of each copy, in terms of the former and `index`; `then` is the
    number of channels after a copy (None: unchanged), `member` the rule for its name (None: its index).
    """

    name: str
    of: Class
    arguments: list[Argument]
    passed: Mapping[str, Term]
    then: Term | None
    member: Counted | None


@dataclass(frozen=True, eq=False)
class ClassPlan:
    """The classes of a network, each before those that use it, and its stages. The last class is the network itself;
    `function` is the name of the function that builds it."""

    network: Network
    function: str
    classes: list[Class]
    stages: list[Stage]

    def merges(self) -> Iterator[Parallel]:
        """The merges of all classes, each once."""
        return (item.sample for of in self.classes for item in body_items(of.items) if isinstance(item, Join))

    @property
    def root(self) -> Class:
        """The class of the network."""
        return self.classes[-1]


def body_items(items: Sequence[Item]) -> Iterator[Item]:
    """The items in the body of a class, in order; those inside groups and runs have no merge and are not entered."""
    for item in items:
        yield item
        if isinstance(item, Join):
            for branch in item.branches:
                yield from body_items(branch)
        elif isinstance(item, Tap):
            yield from body_items(item.items)


def scope_names(items: Sequence[Item]) -> Iterator[str]:
    """The names of the modules in the scope of a class."""
    return (item.name for item in body_items(items) if isinstance(item, Layer | Group | Use | Row | Copies))


def gives_output(items: Sequence[Item]) -> bool:
    """Whether an output comes from inside of items."""
    return any(
        (isinstance(item, Tap) and item.output is not None and item.mode != "never")
        or (isinstance(item, Use) and item.of.taps)
        for item in body_items(items)
    )

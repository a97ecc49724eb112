"""What a class plan consists of: classes, the items of their bodies, and the stages that repeat them.

Nothing here knows a framework. Every `Term` is checked for every instance; `terms.python` prints it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rescompile.codegen.naming import Counted
from rescompile.ir.expressions import Term
from rescompile.ir.network import Merge, Mode, Network, Op, Parallel, Series
from rescompile.ir.ops import Kind

#: The name of the argument that takes the input channels.
IN = "in_channels"


@dataclass
class Argument:
    """An argument of a class or a stage: its Python type, and its default, a constant."""

    name: str
    type: str
    default: Term | None = None


@dataclass
class Layer:
    """An op: its attributes, the channels that come in, and the condition under which it is there at all."""

    name: str
    kind: type[Kind]
    attributes: Mapping[str, Term]
    channels: Term
    sample: Op
    when: Term | None = None


@dataclass
class Group:
    """A named list of modules, one after the other."""

    name: str
    items: list[Item]
    when: Term | None = None


@dataclass
class Run:
    """Modules without a name of their own that are there under one condition, and own nothing: option A's shortcut."""

    name: str
    items: list[Item]
    when: Term


@dataclass
class Use:
    """An instance of a class."""

    name: str
    of: Class
    arguments: Mapping[str, Term]
    when: Term | None = None


@dataclass
class Repeated:
    """Copies made by a stage; `depth` of them."""

    stage: Stage
    arguments: Mapping[str, Term]


@dataclass
class Row:
    """A named list of copies: stages, and single copies that are of another class than their neighbours."""

    name: str
    parts: list[Repeated | Use]
    when: Term | None = None


@dataclass
class Copies:
    """Copies of one part side by side, `count` of them, and their sum or concat: on the same value, or with `split` each on its
    range of the channels."""

    name: str
    use: Use
    count: Term
    merge: Merge
    split: bool


@dataclass
class Join:
    """Branches on the same value, or as the sample says on parts of it, merged. `survival` is the probability with which the first one is kept."""

    name: str
    merge: Merge
    branches: list[list[Item]]
    sample: Parallel
    survival: Term | None = None


@dataclass
class Tap:
    """A branch that does not rejoin."""

    items: list[Item]
    output: str | None
    mode: Mode


Item = Layer | Group | Run | Use | Row | Copies | Join | Tap


@dataclass
class Class:
    """A kind of block: all its instances have this one text."""

    name: str
    doc: str
    reference: str
    sample: Series
    arguments: list[Argument] = field(default_factory=list)
    lets: list[tuple[str, Term]] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    count: int = 1
    #: Whether outputs come from inside, so that they are carried out beside the result.
    taps: bool = False


@dataclass
class Stage:
    """A loop over copies of a class, `depth` of them. `arguments` are the stage's own, `passed` what each copy gets (in
    which `index` counts), `then` the channels after a copy, and `member` its name, with `index`, where not a number."""

    name: str
    of: Class
    arguments: list[Argument]
    passed: Mapping[str, Term]
    then: Term | None
    member: Counted | None


@dataclass
class ClassPlan:
    """A network as classes, in the order in which they need one another; the last one is the network itself, which
    `function` makes."""

    network: Network
    function: str
    classes: list[Class]
    stages: list[Stage]

    def residuals(self) -> Iterator[Parallel]:
        """The merges of all classes, one for each place in the text."""
        todo: list[Item] = [item for of in self.classes for item in of.items]
        while todo:
            item = todo.pop()
            if isinstance(item, Join):
                yield item.sample
                todo.extend(inner for branch in item.branches for inner in branch)
            elif isinstance(item, Group | Run | Tap):
                todo.extend(item.items)

    @property
    def root(self) -> Class:
        """The class of the network."""
        return self.classes[-1]


def scope_names(items: Sequence[Item]) -> Iterator[str]:
    """The names in the scope of a class."""
    for item in items:
        match item:
            case Join():
                for branch in item.branches:
                    yield from scope_names(branch)
            case Tap():
                yield from scope_names(item.items)
            case Layer() | Group() | Use() | Row() | Copies():
                yield item.name


def gives_output(items: Sequence[Item]) -> bool:
    """Whether an output comes from inside of items."""
    for item in items:
        match item:
            case Tap() if item.output is not None and item.mode != "never":
                return True
            case Join() if any(gives_output(branch) for branch in item.branches):
                return True
            case Use() if item.of.taps:
                return True
            case Group() | Run() | Tap() if gives_output(item.items):
                return True
    return False

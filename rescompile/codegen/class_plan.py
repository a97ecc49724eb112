"""The data of a class plan: classes, the items of their bodies, and the stages that repeat them; no framework.

Every value is a `Term` that evaluates to the tree's number for every instance; `terms.python` prints it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rescompile.codegen.naming import Counted
from rescompile.codegen.terms import python
from rescompile.ir import ops
from rescompile.ir.expressions import Term
from rescompile.ir.network import Merge, Mode, Network, Op, Parallel, Series
from rescompile.records import record

#: The name of the argument for the input channels.
IN = "in_channels"
#: The number of a copy in a loop.
INDEX = "index"


@record(slots=False)
class Argument:
    """An argument of a class or a stage, with its Python type and its default, a constant."""

    name: str
    type: str
    default: Term | None = None


@dataclass(eq=False)
class KeptValues:
    """The kept values of one name in a class: its variable, the word of the spec, and whether `many` of them are in a
    dict by index. A value without an index has the index ALONE in a dict."""

    name: str
    word: str
    many: bool


#: The index, in a dict of values, of a value without one.
ALONE = -1


@record(slots=False)
class _Indexed:
    """Values of a name, and the index of one of them, if it has one."""

    values: KeptValues
    index: Term | None

    @property
    def index_text(self) -> str:
        """The index as text, empty without one."""
        return "" if self.index is None else python(self.index)


class Keeping(_Indexed):
    """The value at this place, which is kept."""


class Recalling(_Indexed):
    """A kept value, which replaces the current one."""


@record(slots=False)
class Layer:
    """An op with its attributes, its input channels if it has parameters, and the condition under which it exists
    (None: always). `as_module` makes it a module even if a function would suffice."""

    name: str
    kind: type[ops.Kind]
    attributes: Mapping[str, Term]
    channels: Term
    sample: Op
    when: Term | None = None
    as_module: bool = False


@record(slots=False)
class Group:
    """A named sequence of modules."""

    name: str
    items: list[Item]
    when: Term | None = None


@record(slots=False)
class Run:
    """Unnamed modules without parameters that exist under one condition, such as the option A shortcut."""

    name: str
    items: list[Item]
    when: Term


@record(slots=False)
class Use:
    """An instance of a class; `values` are passed to it, in the order of the class."""

    name: str
    of: Class
    arguments: Mapping[str, Term]
    when: Term | None = None
    values: tuple[KeptValues, ...] = ()


@record(slots=False)
class Either:
    """One of two modules of the same name: `then` under a condition, else `otherwise`."""

    name: str
    when: Term
    then: Layer | Group | Use
    otherwise: Layer | Group | Use


@record(slots=False)
class Repeated:
    """Copies of a class that a stage builds."""

    stage: Stage
    arguments: Mapping[str, Term]


@record(slots=False)
class Scan:
    """The equal copies from `start` up to `stop` of the row at a path: one scan may run them. `names` are those of all
    copies of the row."""

    path: str
    names: tuple[str, ...]
    start: int
    stop: int

    @property
    def at_end(self) -> bool:
        """Whether no copy follows."""
        return self.stop == len(self.names)


@record(slots=False)
class Row:
    """A named sequence of copies: stages, and single copies whose class differs from their neighbours. Each receives
    the same `values`; the copies of `scan` run in one scan."""

    name: str
    parts: list[Repeated | Use]
    when: Term | None = None
    values: tuple[KeptValues, ...] = ()
    scan: Scan | None = None


@record(slots=False)
class Copies:
    """Parallel copies of one part, `count` of them, and their sum or concatenation. All have the same input or, with
    `split`, each has its own range of the channels."""

    name: str
    use: Use
    count: Term
    merge: Merge
    split: bool


@record(slots=False)
class NumberedCopies:
    """Parallel copies of a list of layers, which are all modules of their class: 0, 1 and so on. Numbers of the layers
    may depend on INDEX. `most` is the largest `count`; the rest is as in `Copies`."""

    items: list[Item]
    count: Term
    most: int
    merge: Merge
    split: bool


@record(slots=False)
class Join:
    """Merged branches of one value or, if the sample is split, of its ranges of channels: equal ones, or of these
    `sizes`. `survival` is the probability with which training keeps the first branch; `when` is the condition of a
    residual under which it has a shortcut (None: always)."""

    name: str
    merge: Merge
    branches: list[list[Item]]
    sample: Parallel
    survival: Term | None = None
    sizes: tuple[Term, ...] = ()
    when: Term | None = None


@record(slots=False)
class Tap:
    """A side branch, which does not rejoin."""

    items: list[Item]
    output: str | None
    mode: Mode


@record(slots=False)
class Rerun:
    """Items of the same class again: the modules are called again, not built again."""

    items: tuple[Item, ...]


#: Items with a module of their name.
Module = Layer | Group | Use | Either | Row | Copies
Item = Module | Run | NumberedCopies | Join | Tap | Keeping | Recalling | Rerun


@record(slots=False, eq=False)
class Class:
    """A class, with the text that all instances of a block share; `sample` is the first of them, `count` their number.

    `taps` is true if outputs come from inside and are returned besides the result; `values` are kept values that the
    surrounding classes pass in.
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
    values: tuple[KeptValues, ...] = ()


@record(slots=False, eq=False)
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


@record(slots=False, eq=False)
class ClassPlan:
    """The classes of a network, each before those that use it, and its stages. The last class is the network itself;
    `function` is the name of the function that builds it."""

    network: Network
    function: str
    classes: list[Class]
    stages: list[Stage]

    def merges(self) -> Iterator[Parallel]:
        """Yield the merges of all classes, each once."""
        return (item.sample for of in self.classes for item in body_items(of.items) if isinstance(item, Join))

    @property
    def root(self) -> Class:
        """The class of the network."""
        return self.classes[-1]


def body_items(items: Sequence[Item]) -> Iterator[Item]:
    """Yield the items in the body of a class, in order, without entering groups and runs, which have no merge; repeated
    items precede their repetition."""
    for item in items:
        yield item
        if isinstance(item, Join):
            for branch in item.branches:
                yield from body_items(branch)
        elif isinstance(item, Tap):
            yield from body_items(item.items)


def with_modules(of: Class) -> Class:
    """Return a class whose activations and pools are modules, if its body is a chain; flattening remains a function, so
    that all modules but the last compute a feature map. Otherwise the class itself."""
    if any(isinstance(item, NumberedCopies | Join | Rerun) or keeps_values([item]) for item in of.items):
        return of
    items: list[Item] = [
        replace(item, as_module=item.kind is not ops.Flatten) if isinstance(item, Layer) else item for item in of.items
    ]
    return replace(of, items=items)


def scope_names(items: Sequence[Item]) -> Iterator[str]:
    """Yield the names of the modules in the scope of a class."""
    return (item.name for item in body_items(items) if isinstance(item, Module))


def keeps_values(items: Sequence[Item]) -> bool:
    """Return whether items keep or use values."""
    return any(
        isinstance(item, Keeping | Recalling) or (isinstance(item, Use | Row) and bool(item.values))
        for item in body_items(items)
    )


def gives_output(items: Sequence[Item]) -> bool:
    """Return whether an output comes from inside items."""
    return any(
        (isinstance(item, Tap) and item.output is not None and item.mode != "never")
        or (isinstance(item, Use) and item.of.taps)
        for item in body_items(items)
    )

"""What lowering asks of a framework, and what the source of all frameworks that Python calls shares: expressions and calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from rescompile.codegen.allow_list import Allowed
from rescompile.codegen.class_plan import IN, Argument, ClassPlan, Layer, Stage
from rescompile.codegen.initial import Modules
from rescompile.codegen.naming import Counted
from rescompile.codegen.program import (
    Apply,
    Beside,
    Call,
    Expr,
    Joined,
    Listed,
    Listing,
    Make,
    MakeLayer,
    Merged,
    New,
    NewStage,
    Part,
    Var,
)
from rescompile.codegen.terms import operation, python
from rescompile.ir.expressions import Term
from rescompile.ir.ops import Kind

#: The name that each import defines and its line; groups are apart by an empty line.
Imports = Sequence[Sequence[tuple[str, str]]]
#: So many arguments are given by their place, the others by name.
BY_PLACE = 3


class Dialect(Protocol):
    """A framework, as far as it decides what a program is. A line ends where its text is long, so lowering asks for that."""

    #: Names to which the framework or its files give a meaning.
    reserved: frozenset[str]
    #: So long may an expression be before it is put into a variable.
    longest: int

    def is_fresh(self, kind: type[Kind]) -> bool:
        """Whether nothing else holds the result of an op, and no backward needs it: then what follows may work in place."""

    def applies(self, layer: Layer) -> bool:
        """Whether an op in the body of a class is applied as a function, and needs no module. Raises Unavailable for an op
        that the framework lacks."""

    def expression(self, value: Expr) -> str:
        """The text of a value."""

    def is_tensor(self, value: Expr) -> bool:
        """Whether a type checker knows what a value is, so that it may be returned as it stands."""

    def conditional(self, part: Listed) -> str:
        """The text that makes a module of a list; what is made alike has one text."""


class PythonDialect(Dialect):
    """The part of a dialect that frameworks share; a subclass adds the framework's words."""

    #: The framework's name.
    title: str
    #: The package with the template, and the filters that this template alone needs.
    package: str
    filters: Sequence[tuple[str, Callable[[Any], str]]] = ()
    imports: Imports
    #: What a file may contain.
    allowed: Allowed
    #: Text that a file needs, by the type of the statement or the op that needs it.
    support: Mapping[type[object], str]
    #: How modules are initialised.
    modules: Modules

    def training(self, plan: ClassPlan) -> Iterator[str]:
        """What a user must know before training a network, in paragraphs."""
        raise NotImplementedError

    def function(self, layer: Layer, value: str, in_place: bool) -> str:
        """The call that applies an op."""
        raise NotImplementedError

    def module(self, layer: Layer, in_place: bool) -> str:
        """The call that makes the module of an op."""
        raise NotImplementedError

    def concat(self, values: str) -> str:
        """The concatenation of the values inside a pair of square brackets."""
        raise NotImplementedError

    def sequence(self, pairs: Sequence[tuple[str, str]], numbered: bool) -> str:
        """Modules one after the other, by name; a name that is empty stands for the copies that a stage makes."""
        raise NotImplementedError

    #: What does nothing.
    identity: str

    def expression(self, value: Expr) -> str:
        """The text of a value."""
        match value:
            case Var(name):
                return name
            case Part(of, at):
                return f"{of.name}[{at}]"
            case Call(module, inner, outputs):
                return f"{attribute(module)}({self.expression(inner)}{', outputs' if outputs else ''})"
            case Apply(layer, inner, in_place):
                return self.function(layer, self.expression(inner), in_place)
            case Beside(copies, given, split):
                if split:
                    return self.concat(f"branch({given.name}[at]) for at, branch in enumerate(self.{copies})")
                return self.concat(f"branch({given.name}) for branch in self.{copies}")
            case Merged(how, values):
                return self.merged(how, [self.expression(item) for item in values])

    def merged(self, how: str, texts: Sequence[str]) -> str:
        """The text of merged values."""
        match how:
            case "concat":
                return self.concat(", ".join(texts))
            case "mul":
                return " * ".join(texts)
            case "gate":
                new, gate, old = texts
                return f"{old} + {gate} * ({new} - {old})"
            case "carry":
                gate, old = texts
                return f"{old} - {gate} * {old}"
        return " + ".join(texts)

    def construction(self, make: Make) -> str:
        """The text that makes a module."""
        match make:
            case MakeLayer(layer, in_place):
                return self.module(layer, in_place)
            case New(of, arguments):
                return f"{of.name}({', '.join(call_arguments(arguments, of.arguments))})"
            case NewStage(stage, arguments):
                return f"{stage.name}({', '.join(call_arguments(arguments, stage.arguments))})"
            case Listing(parts):
                return self.sequence([(part.name, self.conditional(part)) for part in parts], make.numbered)
            case Joined(parts, numbered):
                pairs = [
                    ("", self.construction(p)) if isinstance(p, NewStage) else (p[0], self.construction(p[1]))
                    for p in parts
                ]
                return self.sequence(pairs, numbered)

    def conditional(self, part: Listed) -> str:
        """The text that makes a module of a list."""
        text = self.construction(part.make)
        return text if part.when is None else f"{text} if {python(part.when)} else {self.identity}"


def attribute(name: str) -> str:
    """How a method reaches a module; one that is called by a number is no attribute in Python."""
    return f"self.{name}" if name.isidentifier() else f'getattr(self, "{name}")'


def parameters(arguments: Sequence[Argument]) -> str:
    """The parameters of a function."""
    listed = (f"{a.name}: {a.type}" + (f" = {python(a.default)}" if a.default is not None else "") for a in arguments)
    return ", ".join(listed)


def call_arguments(arguments: Mapping[str, Term], order: Sequence[Argument]) -> Iterator[str]:
    """Arguments at a call: those without a default in their place, the others by name."""
    by_name = False
    for place, argument in enumerate(order):
        if argument.name not in arguments:
            by_name = True
            continue
        text = python(arguments[argument.name])
        by_name |= argument.default is not None or place >= BY_PLACE
        yield f"{argument.name}={text}" if by_name else text


def numbered_name(rule: Counted) -> str:
    """Names that count, as the inside of an f-string of `index`."""
    number = "index" if rule.step == 1 else f"{rule.step} * index"
    return f"{rule.prefix}{{{number} + {rule.first}}}" if rule.first else f"{rule.prefix}{{{number}}}"


def counts(stage: Stage) -> bool:
    """Whether what a stage gives a copy depends on its place."""
    terms = [*stage.passed.values(), *([stage.then] if stage.then else [])]
    return stage.member is not None or any("index" in term.names for term in terms)


def growth(term: Term) -> Term | None:
    """What the channels after a copy are more than those before it; None where they are no such sum."""
    if term.head not in ("+", "-"):
        return None
    left, right = term.operands
    if left.head == "name" and left.value == IN:
        return right if term.head == "+" else None
    inner = growth(left)
    return None if inner is None else operation(term.head, inner, right)

"""The interface between the code generator and a framework, and the expressions and calls that all frameworks share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from rescompile.codegen.allow_list import Allowed
from rescompile.codegen.class_plan import IN, INDEX, Argument, Class, ClassPlan, KeptValues, Layer, Repeated, Stage, Use
from rescompile.codegen.entries import Entry, Joined, Listing, Make, MakeDropPath, MakeLayer, Scanned, Separate
from rescompile.codegen.initialisation import Modules
from rescompile.codegen.naming import Counted
from rescompile.codegen.statements import Apply, Beside, Call, Element, Expr, Merged, Stored, Var
from rescompile.codegen.terms import operation, python
from rescompile.diagnostics.errors import Unavailable
from rescompile.ir.expressions import Term
from rescompile.ir.network import Op
from rescompile.ir.ops import Kind

#: Imports in groups, each with a name that it defines.
Imports = Sequence[Sequence[tuple[str, str]]]
#: The number of positional arguments of a call; further ones are passed by keyword.
BY_PLACE = 3
#: The words of a spec for constructs that a template may refuse.
_WORDS = {
    **dict.fromkeys(("Survives", "Scaled", "Thinned"), "residual branches with a 'survival'"),
    "Recomputed": "'checkpoint: true'",
    "Training": "side branches of the mode 'training'",
    "Output": "side outputs",
    **dict.fromkeys(("Collection", "Store", "Through"), "values kept by several blocks of a row"),
    **dict.fromkeys(("Parts", "Sum", "Copied"), "branches with 'copies'"),
    "Unpack": "merges with 'split'",
    "Filled": "sequences whose steps have names",
    "Looped": "rows of several steps that repeat",
}


class Dialect:
    """A framework: its traits, which lowering reads, and its spellings, with which the template prints a program. A
    subclass adds what frameworks do not share."""

    #: Names reserved by the framework or in its files.
    reserved: frozenset[str]
    #: The length above which an expression is assigned to a variable.
    longest: int
    #: Ops that are written as one call with the op after them.
    pairs: Collection[tuple[type[Kind], type[Kind]]] = ()
    #: Whether residuals that may be dropped are always computed and set to zero, because a program cannot skip
    #: statements.
    masks = False
    #: The framework's name, and its type of arrays.
    title: str
    array: str
    #: The package with the template, and the filters that this template alone needs.
    package: str
    filters: Sequence[tuple[str, Callable[..., Any]]] = ()
    imports: Imports
    #: What a file may contain.
    allowed: Allowed
    #: Functions, classes and constants for the files that use them, by name; each follows those that it uses itself.
    support: Mapping[str, str]
    #: How existing modules are initialised; None for a framework whose constructors accept initialisers.
    modules: Modules | None = None
    #: Whether channels are the last axis of a feature map.
    channels_last = False
    #: Whether one scan runs the equal copies of a row.
    scans = False
    #: Arguments that every constructor passes on.
    passed: Sequence[str] = ()

    def training(self, plan: ClassPlan) -> Iterable[str]:
        """Return paragraphs about training for the docstring of a network; none by default."""
        return ()

    def spelled(self, op: Op) -> tuple[str | None, ...]:
        """Return the names of the module and of the function of an op, if they may depend on the shape of its input."""
        return ()

    def is_fresh(self, kind: type[Kind]) -> bool:
        """Return whether the next op may overwrite the result of an op: nothing else refers to it and no backward pass
        needs it."""
        raise NotImplementedError

    def applies(self, layer: Layer) -> bool:
        """Return whether an op in the body of a class is applied as a function, not as a module. Raises Unavailable for
        an op without a spelling."""
        raise NotImplementedError

    def is_tensor(self, value: Expr) -> bool:
        """Return whether a type checker sees a value as a tensor, so that it can be returned without an assignment: by
        default, every value."""
        return True

    def refused(self, part: object, of: Class) -> NoReturn:
        """Refuse a statement or an entry of a class that the template does not print. Raises Unavailable."""
        name = type(part).__name__
        message = f"source of {self.title} has no {_WORDS.get(name, name)}, but the class {of.name} needs them"
        raise Unavailable.of("E0901", message, help="use another target")

    def function(self, layer: Layer, value: str, in_place: bool) -> str:
        """Return the call that applies an op."""
        raise NotImplementedError

    def module(self, layer: Layer, in_place: bool) -> str:
        """Return the call that builds the module of an op."""
        raise NotImplementedError

    def concat(self, values: str) -> str:
        """Return the concatenation of the values inside a pair of square brackets."""
        raise NotImplementedError

    #: The list of modules of a class, from a Python list or the function of a stage.
    listing = "{}"

    def sequence(self, pairs: Sequence[tuple[str, str]], numbered: bool) -> str:
        """Return modules in sequence, from names and texts; an empty name marks the copies of a stage."""
        if numbered:
            return f"Sequential([{', '.join(text if name else f'*{text}' for name, text in pairs)}])"
        items = ", ".join(f'"{name}": {text}' if name else f"**{text}" for name, text in pairs)
        return f"Chain({{{items}}})"

    def separate(self, texts: Sequence[tuple[str, bool]]) -> str:
        """Return modules in a list, from texts, each with whether it is the text of the copies of a stage."""
        if len(texts) == 1 and texts[0][1]:
            return self.listing.format(texts[0][0])
        return self.listing.format(f"[{', '.join(f'*{text}' if several else text for text, several in texts)}]")

    def scanned(self, make: Scanned, row: str) -> str:
        """Return the modules of a row, from their text, as one scan and the modules around it."""
        raise NotImplementedError

    #: The expression that builds the identity.
    identity: str

    def expression(self, value: Expr) -> str:
        """Return the text of a value."""
        match value:
            case Var(name):
                return name
            case Call(module, inner, outputs, kept):
                given = [self.expression(inner), *(["outputs"] if outputs else []), *map(self.expression, kept)]
                return f"{attribute(module)}({', '.join(given)})"
            case Element(of, index):
                return f"{of.name}[{index if isinstance(index, int) else f'self.{index}'}]"
            case Apply(layer, inner, in_place):
                return self.function(layer, self.expression(inner), in_place)
            case Beside(Stored() as count, given, split):
                return self.concat(self.beside(count, f"{given.name}[{INDEX}]" if split else given.name))
            case Beside(copies, given, split):
                if split:
                    return self.concat(f"branch({given.name}[at]) for at, branch in enumerate(self.{copies})")
                return self.concat(f"branch({given.name}) for branch in self.{copies}")
            case Merged(values=values, module=module) if module:
                return f"{attribute(module)}([{', '.join(map(self.expression, values))}])"
            case Merged("shake", values, unit):
                return self.shaken([self.expression(item) for item in values], unit == "sample")
            case Merged(how, values):
                return self.merged(how, [self.expression(item) for item in values])

    def beside(self, count: Stored, value: str) -> str:
        """Return the calls of a class's own modules, named 0, 1 and so on, as the inside of a list."""
        return f'getattr(self, f"{{{INDEX}:d}}")({value}) for {INDEX} in range(self.{count.name})'

    def merged(self, how: str, texts: Sequence[str]) -> str:
        """Return the text of merged values."""
        match how:
            case "concat":
                return self.concat(", ".join(texts))
            case "mul":
                return " * ".join(texts)
            case "gate":
                new, gate, old = texts
                return f"{old} + {gate} * ({new} - {old})"
            case "mean":
                return f"({' + '.join(texts)}) / {len(texts)}"
            case "carry":
                gate, old = texts
                return f"{old} - {gate} * {old}"
        return " + ".join(texts)

    def shaken(self, texts: Sequence[str], per_sample: bool) -> str:
        """Return the text of a random merge of values. Raises Unavailable if the framework lacks it."""
        message = f"{self.title} source does not support the merge 'shake'"
        raise Unavailable.of("E0901", message, help="for evaluation only, write 'merge: mean'")

    #: The class of modules that average branches and drop some of them in training; empty if the framework lacks it.
    drop_path = ""

    def dropping(self, make: MakeDropPath) -> str:
        """Return the expression that builds such a module."""
        return f"{self.drop_path}({make.how.rate})"

    def construction(self, make: Make) -> str:
        """Return the expression that builds a module."""
        match make:
            case MakeLayer(layer, in_place):
                return self.module(layer, in_place)
            case MakeDropPath():
                return self.dropping(make)
            case Use():
                return self.new(make.of, make.arguments)
            case Repeated(stage, arguments):
                return self.new(stage, arguments)
            case Separate(parts):
                return self.separate([(self.construction(part), isinstance(part, Repeated)) for part in parts])
            case Listing(parts):
                return self.sequence([(part.name, self.conditional(part)) for part in parts], make.numbered)
            case Joined(parts, numbered):
                names = ("" if isinstance(part, Repeated) else part.name for part in parts)
                return self.sequence([*zip(names, map(self.construction, parts), strict=True)], numbered)
            case Scanned(row):
                return self.scanned(make, self.construction(row))

    def new(self, of: Class | Stage, arguments: Mapping[str, Term]) -> str:
        """Return the call of a class, or of the function of a stage."""
        return f"{of.name}({', '.join([*call_arguments(arguments, of.arguments), *self.passed])})"

    def value_arguments(self, values: Sequence[KeptValues]) -> str:
        """Return the parameters of a forward for kept values, to follow its other parameters."""
        types = {True: f"dict[int, {self.array}]", False: self.array}
        return "".join(f", {value.name}: {types[value.many]}" for value in values)

    def conditional(self, part: Entry) -> str:
        """Return the expression that builds a module of a sequence; equal modules have equal texts."""
        text = self.construction(part.make)
        if part.when is None:
            return text
        otherwise = self.identity if part.otherwise is None else self.construction(part.otherwise)
        return f"{text} if {python(part.when)} else {otherwise}"


def attribute(name: str) -> str:
    """Return the expression of a module in a method; a number is not an identifier in Python."""
    return f"self.{name}" if name.isidentifier() else f'getattr(self, "{name}")'


def count_text(count: int | str | Stored) -> str:
    """Return the text of a number: a literal, the number of the copies of this name, or of a class's own modules."""
    match count:
        case Stored(name):
            return f"self.{name}"
        case str():
            return f"len(self.{count})"
    return str(count)


def parameters(arguments: Sequence[Argument]) -> str:
    """Return the parameters of a function."""
    listed = (f"{a.name}: {a.type}" + (f" = {python(a.default)}" if a.default is not None else "") for a in arguments)
    return ", ".join(listed)


def call_arguments(arguments: Mapping[str, Term], order: Sequence[Argument]) -> Iterator[str]:
    """Yield the arguments of a call: those without a default by position, all others by keyword."""
    by_name = False
    for place, argument in enumerate(order):
        if argument.name not in arguments:
            by_name = True
            continue
        text = python(arguments[argument.name])
        by_name |= argument.default is not None or place >= BY_PLACE
        yield f"{argument.name}={text}" if by_name else text


def numbered_name(rule: Counted) -> str:
    """Return counting names as the inside of an f-string of `index`."""
    number = "index" if rule.step == 1 else f"{rule.step} * index"
    return f"{rule.prefix}{{{number} + {rule.first}}}" if rule.first else f"{rule.prefix}{{{number}}}"


def counts(stage: Stage) -> bool:
    """Return whether a copy in a stage depends on its position."""
    terms = [*stage.passed.values(), *([stage.then] if stage.then else [])]
    return stage.member is not None or any("index" in term.names for term in terms)


def growth(term: Term) -> Term | None:
    """Return the channels that a copy adds to its input; None if the term is not such a sum."""
    if term.head not in ("+", "-"):
        return None
    left, right = term.operands
    if left.head == "name" and left.value == IN:
        return right if term.head == "+" else None
    inner = growth(left)
    return None if inner is None else operation(term.head, inner, right)

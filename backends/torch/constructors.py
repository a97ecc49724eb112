"""What the constructor of a class makes, as lines of PyTorch: modules, lists of them, rows of copies and the loops for both."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from rescompile.backend import rule
from rescompile.codegen.class_plan import Argument, Copies, Group, Item, Layer, Repeated, Row, Run, Stage, Use
from rescompile.codegen.naming import Counted, counted
from rescompile.codegen.terms import mentioned, python
from rescompile.ir import ops
from rescompile.ir.expressions import Term

from .spellings import FORMS, SUPPORT, call
from .spellings import act as act_module

#: Ops whose result nothing else holds, and whose backward does not need it: what follows may work in place.
FRESH = (ops.Conv, ops.Norm, ops.Linear)
#: So many copies in a list of modules are made by a loop.
LOOP = 3
#: So many arguments are given by their place, the others by name.
BY_PLACE = 3


def parameters(arguments: Sequence[Argument]) -> str:
    """The parameters of a function, after what comes first."""
    return "".join(
        f", {a.name}: {a.type}" + (f" = {python(a.default)}" if a.default is not None else "") for a in arguments
    )


def _given(arguments: Mapping[str, Term], order: Sequence[Argument]) -> list[str]:
    """Arguments at a call: those without a default in their place, the others by name."""
    given, by_name = [], False
    for place, argument in enumerate(order):
        if argument.name not in arguments:
            by_name = True
            continue
        text = python(arguments[argument.name])
        plain = argument.default is None and not by_name and place < BY_PLACE
        by_name |= not plain
        given.append(text if plain else f"{argument.name}={text}")
    return given


def instance(use: Use) -> str:
    """The making of an instance."""
    return f"{use.of.name}({', '.join(_given(use.arguments, use.of.arguments))})"


def stage_call(stage: Stage, arguments: Mapping[str, Term]) -> str:
    """The making of a row of copies."""
    return f"{stage.name}({', '.join(_given(arguments, stage.arguments))})"


def stage_lines(stage: Stage) -> Iterator[str]:
    """The function that makes the copies of a row."""
    yield f"def {stage.name}({parameters(stage.arguments).removeprefix(', ')}) -> nn.Sequential:"
    yield f'    """`depth` times {stage.of.name}, one after the other."""'
    yield "    stage = nn.Sequential()"
    terms = [*stage.passed.values(), *([stage.then] if stage.then else [])]
    numbers = "index" if stage.member or any("index" in mentioned(term) for term in terms) else "_"
    yield f"    for {numbers} in range(depth):"
    made = f"{stage.of.name}({', '.join(_given(stage.passed, stage.of.arguments))})"
    if stage.member is None:
        yield f"        stage.append({made})"
    else:
        yield f'        stage.add_module(f"{_template(stage.member)}", {made})'
    if stage.then is not None:
        then = python(stage.then)
        growth = re.fullmatch(r"in_channels \+ (.+)", then)
        yield f"        in_channels += {_bare(growth[1])}" if growth else f"        in_channels = {then}"
    yield "    return stage"


def _bare(text: str) -> str:
    """An expression without brackets around the whole of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and at < len(text) - 1:
            return text
    return text[1:-1]


class Constructor:
    """Writes what a constructor makes."""

    def __init__(self, rolls: bool) -> None:
        self.rolls = rolls  # modules that repeat in a list are made by a loop
        self.numbers: list[str] = []  # what forward needs to know
        self.made: list[str] = []  # and the modules that it calls
        self.support: set[type[ops.Kind]] = set()
        self.helpers: set[str] = set()

    @property
    def lines(self) -> list[str]:
        """The lines of the constructor."""
        return [*self.numbers, *self.made]

    def has(self, name: str) -> bool:
        """Whether a module of this name is made."""
        return any(line.startswith((f"self.{name} = ", f"self.{name}: ")) for line in self.made)

    def number(self, name: str, text: str, names: set[str]) -> str:
        """Let forward know a number by this name, or a free one like it, beside these; the name."""
        while name in names or any(line.startswith(f"self.{name} = ") for line in self.numbers):
            name += "_"
        self.numbers.append(f"self.{name} = {text}")
        return name

    def make(self, name: str, made: str, when: Term | None) -> None:
        """Make a module."""
        if not name.isidentifier():
            chosen = made if when is None else f"{made} if {python(when)} else nn.Identity()"
            self.made.append(f'self.add_module("{name}", {chosen})')
        elif when is None:
            self.made.append(f"self.{name} = {made}")
        else:
            self.made.append(f"self.{name}: nn.Module = nn.Identity()")
            self.made.append(f"if {python(when)}:")
            self.made.append(f"    self.{name} = {made}")

    def make_group(self, group: Group) -> None:
        """Make a list of modules: one that is called by words is filled line by line."""
        names, made = self.listed(group.items, False)
        if group.when is None and group.name.isidentifier() and self.rolls and (loop := _loop(names, made)):
            self.made.append(f"self.{group.name} = nn.Sequential()")
            self.made += [loop[0], *[f"    self.{group.name}.{line}" for line in loop[1:]]]
        elif group.when is None and group.name.isidentifier() and names and all(name.isidentifier() for name in names):
            self.made.append(f"self.{group.name} = nn.Sequential()")
            self.made += [f"self.{group.name}.{name} = {text}" for name, text in zip(names, made, strict=True)]
        else:
            self.make(group.name, self.group(group), group.when)

    def make_copies(self, copies: Copies) -> None:
        """Make copies side by side by a loop."""
        self.made.append(f"self.{copies.name} = nn.ModuleList()")
        self.made.append(f"for _ in range({python(copies.count)}):")
        self.made.append(f"    self.{copies.name}.append({instance(copies.use)})")

    def module(self, layer: Layer, in_place: bool = False) -> str:
        """The module of an op."""
        if layer.kind in SUPPORT:
            self.support.add(layer.kind)
        if layer.kind is ops.Act:
            return act_module(layer, in_place)
        return rule(FORMS, layer.kind, "source").module(layer)

    def listed(self, items: Sequence[Item], fresh: bool) -> tuple[list[str], list[str]]:
        """Names and makings of modules in a list."""
        names, made = [], []
        for item in items:
            match item:
                case Layer():
                    text = self.module(item, fresh)
                    fresh = item.kind in FRESH and item.when is None
                case Use():
                    text, fresh = instance(item), False
                case Row():
                    text, fresh = self.row(item), False
                case Group():
                    text, fresh = self.group(item), False
                case Run():
                    text, fresh = f"nn.Sequential({', '.join(self.listed(item.items, False)[1])})", False
                case _:
                    raise AssertionError(f"{item} stands in a list of modules")
            names.append(item.name)
            made.append(text if item.when is None else f"{text} if {python(item.when)} else nn.Identity()")
        return names, made

    def group(self, group: Group) -> str:
        """A list of modules."""
        names, made = self.listed(group.items, False)
        if names == [str(at) for at in range(len(names))]:
            return call("nn.Sequential", *made)
        self.helpers.add("OrderedDict")
        pairs = ", ".join(f'("{name}", {text})' for name, text in zip(names, made, strict=True))
        return f"nn.Sequential(OrderedDict([{pairs}]))"

    def row(self, row: Row) -> str:
        """A row of copies."""
        texts = [
            instance(part) if isinstance(part, Use) else stage_call(part.stage, part.arguments) for part in row.parts
        ]
        if len(row.parts) == 1 and not isinstance(row.parts[0], Use):
            return texts[0]
        if not any(_numbered(part) for part in row.parts):
            self.helpers.add("OrderedDict")
            pairs = [
                f'("{part.name}", {text})' if isinstance(part, Use) else f"*{text}.named_children()"
                for part, text in zip(row.parts, texts, strict=True)
            ]
            return f"nn.Sequential(OrderedDict([{', '.join(pairs)}]))"
        starred = [text if isinstance(part, Use) else f"*{text}" for part, text in zip(row.parts, texts, strict=True)]
        return f"nn.Sequential({', '.join(starred)})"


def _loop(names: Sequence[str], made: Sequence[str]) -> list[str] | None:
    """The loop that makes a whole list of modules, where it is nothing but copies of a few; None where it is not."""
    for period in range(1, len(made) // LOOP + 1):
        depth, rest = divmod(len(made), period)
        if rest or any(text != made[at % period] for at, text in enumerate(made)):
            continue
        lines = [f"for index in range({depth}):"]
        for at in range(period):
            rule = counted(names[at::period])
            if rule is None:
                return None
            lines.append(f'add_module(f"{_template(rule)}", {made[at]})')
        return lines
    return None


def _template(rule: Counted) -> str:
    """Names that count, as the inside of an f-string of `index`."""
    number = "index" if rule.step == 1 else f"{rule.step} * index"
    return f"{rule.prefix}{{{number} + {rule.first}}}" if rule.first else f"{rule.prefix}{{{number}}}"


def _numbered(part: Repeated | Use) -> bool:
    """Whether the copies of a part of a row are called by numbers."""
    return part.name.isdigit() if isinstance(part, Use) else part.stage.member is None

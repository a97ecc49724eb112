"""A class of the plan as lines of PyTorch: what its constructor makes, and how its forward threads the value."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rescompile.backend import rule
from rescompile.codegen.class_plan import (
    Class,
    Copies,
    Group,
    Item,
    Join,
    Layer,
    Row,
    Run,
    Tap,
    Use,
    scope_names,
)
from rescompile.codegen.terms import python
from rescompile.ir import ops

from .constructors import FRESH, Constructor, instance, parameters
from .spellings import FORMS

#: A line of forward is ended after so many characters.
ENOUGH = 60
_LOCALS = ("y", "z", "u", "v", "w")


@dataclass(frozen=True)
class Value:
    """The value at some point of a forward: an expression, whether it may be overwritten, and whether it binds tightly."""

    text: str
    fresh: bool = False
    tight: bool = True

    @property
    def is_name(self) -> bool:
        """Whether the value is a variable already."""
        return self.text.isidentifier()


class ClassWriter:
    """Writes one class."""

    def __init__(self, of: Class, checkpoint: bool, is_root: bool, initialises: bool, rolls: bool) -> None:
        self.of, self.checkpoint, self.is_root, self.initialises = of, checkpoint, is_root, initialises
        self.constructor = Constructor(rolls)
        self.lines: list[str] = []  # lines of forward
        self.methods: list[list[str]] = []
        self.indent = 0
        self.local = {"x"}  # variables that hold something
        self.splits = 0  # values that were taken apart
        self.pending: set[str] = set()  # those among them that only the value at hand mentions
        self.inside = False  # of a branch that is computed again
        self.names = set(scope_names(of.items))

    # --- the whole

    def write(self, doc: Sequence[str]) -> list[str]:
        """The lines of the class."""
        value = self.run(self.of.items, Value("x"), "x")
        self.finish(value)
        base = "nn.Module"
        lines = [f"class {self.of.name}({base}):", *doc, ""]
        lines.append(f"    def __init__(self{parameters(self.of.arguments)}) -> None:")
        lines.append("        super().__init__()")
        lines += [f"        {name} = {python(term)}" for name, term in self.of.lets]
        lines += [f"        {line}" for line in self.constructor.lines]
        if self.initialises:
            lines.append("        self.apply(initialise)")
        outputs = ", outputs: dict[str, Tensor]" if self.of.taps and not self.is_root else ""
        returns = "dict[str, Tensor]" if self.of.taps and self.is_root else "Tensor"
        for method in self.methods:
            lines += ["", *[f"    {line}" for line in method]]
        lines += ["", f"    def forward(self, x: Tensor{outputs}) -> {returns}:"]
        if self.of.taps and self.is_root:
            lines.append("        outputs: dict[str, Tensor] = {}")
        return [*lines, *[f"        {line}" for line in self.lines]]

    def finish(self, value: Value) -> None:
        """The end of forward."""
        start, last = " " * self.indent + f"{value.text} = ", self.lines[-1] if self.lines else ""
        if self.of.taps and self.is_root:
            self.say(f'outputs["logits"] = {value.text}')
            self.say("return outputs")
        elif last.startswith(start) and _is_tensor(last.removeprefix(start)):
            self.lines[-1] = " " * self.indent + f"return {last.removeprefix(start)}"
        else:
            self.give(value)

    def say(self, line: str) -> None:
        """Add a line to forward."""
        self.lines.append(" " * self.indent + line)

    def keep(self, value: Value, name: str) -> Value:
        """The value in a variable; what it was computed from may be forgotten."""
        if value.text != name:
            self.say(f"{name} = {value.text}")
            used = {local for local in self.pending if re.search(rf"\b{local}\b", value.text)}
            self.pending -= used
            self.local -= used
        return Value(name, value.fresh)

    def new_local(self) -> str:
        """A variable that holds nothing yet."""
        name = next((name for name in _LOCALS if name not in self.local), f"y{len(self.local)}")
        self.local.add(name)
        return name

    # --- forward

    def run(self, items: Sequence[Item], value: Value, own: str) -> Value:
        """Thread a value through items; `own` is the variable that may be set on the way."""
        left = list(reversed(items))
        while left:
            item = left.pop()
            match item:
                case Layer():
                    value = self.layer(item, value, own)
                case Group() | Row() | Use() | Run():
                    value = self.part(item, value, own)
                case Copies():
                    value = self.copies(item, value, own)
                case Join():
                    # What follows a residual that may be dropped is written once for each case.
                    follows = left.pop() if _skips(item) and left and _is_plain_act(left[-1]) else None
                    value = self.join(item, value, own, follows if isinstance(follows, Layer) else None)
                case Tap():
                    value = self.tap(item, value, own)
        return value

    def layer(self, layer: Layer, value: Value, own: str) -> Value:
        """One op: a function where it owns nothing and needs no argument of the class, else a module."""
        form = rule(FORMS, layer.kind, "source")
        if layer.kind is ops.Identity:
            return value
        literal = all(_is_literal(python(term)) for term in layer.attributes.values())
        if form.function is not None and layer.when is None and literal:
            text = form.function(layer, value.text, value.fresh)
            new = Value(text, fresh=False)
            return self.keep(new, own) if layer.kind is ops.Act else self.short(new, own)
        self.constructor.make(layer.name, self.constructor.module(layer), layer.when)
        return self.short(
            Value(f"{self.reference(layer.name)}({value.text})", layer.kind in FRESH and layer.when is None), own
        )

    def short(self, value: Value, own: str) -> Value:
        """The value, in a variable where its expression has become long."""
        return self.keep(value, own) if len(value.text) > ENOUGH else value

    def part(self, item: Group | Row | Use | Run, value: Value, own: str) -> Value:
        """A named part: made once, called here."""
        name, fresh = item.name, False
        if isinstance(item, Run):
            while self.constructor.has(name):
                name += "_"
            if len(item.items) == 1 and isinstance(item.items[0], Layer):
                made = self.constructor.module(item.items[0])
            else:
                made = f"nn.Sequential({', '.join(self.constructor.listed(item.items, False)[1])})"
        elif isinstance(item, Use):
            made = instance(item)
        elif isinstance(item, Row):
            made = self.constructor.row(item)
        else:
            made = ""
            last = item.items[-1] if item.items else None
            fresh = isinstance(last, Layer) and last.kind in FRESH and last.when is None and item.when is None
        if isinstance(item, Group):
            self.constructor.make_group(item)
        else:
            self.constructor.make(name, made, item.when)
        outputs = ", outputs" if isinstance(item, Use) and item.of.taps else ""
        return self.short(Value(f"{self.reference(name)}({value.text}{outputs})", fresh), own)

    def copies(self, copies: Copies, value: Value, own: str) -> Value:
        """Copies side by side on one value or its parts, made by a loop and called by one."""
        self.constructor.make_copies(copies)
        if not value.is_name:
            value = self.keep(value, own)
        # TorchScript unrolls both, and a variable of the loop below may not be one of a comprehension too. Nor does it know
        # how long a zip of modules and tensors is.
        if copies.split:
            parts = self.parts(value.text, f"len(self.{copies.name})")
            if copies.merge == "concat":
                text = f"torch.cat([branch({parts}[at]) for at, branch in enumerate(self.{copies.name})], 1)"
                return Value(text, fresh=True)
            given = f"{parts}[index]"
        else:
            given = value.text
            if copies.merge == "concat":
                return Value(f"torch.cat([branch({given}) for branch in self.{copies.name}], 1)", fresh=True)
        total = self.new_local()
        self.say(f"{total} = {value.text}")
        self.say(f"for index, part in enumerate(self.{copies.name}):")
        self.say(f"    {total} = {total} + part({given}) if index else part({given})")
        return Value(total, fresh=True)

    def parts(self, text: str, count: str) -> str:
        """A variable with the equal parts of a value's channels. It is none of the others, which hold one tensor each:
        TorchScript and type checkers let a variable keep its type only."""
        self.splits += 1
        name = f"parts{self.splits}" if self.splits > 1 else "parts"
        self.say(f"{name} = {text}.chunk({count}, 1)")
        return name

    def join(self, join: Join, value: Value, own: str, act: Layer | None) -> Value:
        """A merge, and the activation after it where both are written together."""
        if not value.is_name:
            value = self.keep(value, own)
        source = value.text
        before, pending = set(self.local), set(self.pending)
        self.local.add(source)
        self.pending.discard(source)
        result = self.merged(join, source, own, act)
        # What the result mentions is still needed, all else is free again.
        mentioned = {local for local in self.local if re.search(rf"\b{local}\b", result.text)}
        self.pending = (pending | (mentioned - before)) - {own}
        self.local = before | mentioned
        return result

    def merged(self, join: Join, source: str, own: str, act: Layer | None) -> Value:
        """A merge of branches on a variable."""
        if join.survival is not None:
            return self.survived(join, source, own, act)
        results: list[Value] = []
        in_place = join.merge == "add"
        count = len(join.branches)
        # A part of one is the value itself.
        own_locals = parts = [self.new_local() for _ in range(count)] if join.sample.split and count > 1 else []
        if parts and count <= len(_LOCALS):
            self.say(f"{', '.join(parts)} = {source}.chunk({count}, 1)")
        elif parts:
            listed = self.parts(source, str(count))
            parts = [f"{listed}[{at}]" for at in range(count)]
        for at, items in enumerate(join.branches):
            local = own_locals[at] if own_locals else self.new_local()
            given = parts[at] if parts else source
            if self.checkpoint and not self.inside and at == self.new_branch(join) and not _gives_output(items):
                result = self.recomputed(join, items, given)
            else:
                result = self.run(items, Value(given), local)
            if not result.tight or (at == 0 and in_place and result.fresh):
                result = self.keep(result, local)
            results.append(result)
            if not any(re.search(rf"\b{local}\b", line) for line in (*self.lines, *(r.text for r in results))):
                self.local.discard(local)
        if join.merge == "gate" and not results[2].is_name:
            results[2] = self.keep(results[2], self.new_local())
        texts = [result.text for result in results]
        if join.merge != "add":
            return Value(_together(join, texts), fresh=join.merge != "mul", tight=join.merge == "concat")
        if results[0].is_name and results[0].fresh and results[0].text != source:
            for text in texts[1:]:
                self.say(f"{texts[0]} += {text}")
            return Value(texts[0], fresh=True)
        return Value(_together(join, texts), fresh=True, tight=False)

    def survived(self, join: Join, source: str, own: str, act: Layer | None) -> Value:
        """A residual that may be dropped in training: then its branch is not computed at all."""
        assert join.sample.survival is not None
        assert join.survival is not None
        unit, rescale = join.sample.survival.unit, join.sample.survival.rescale
        name = self.constructor.number("survival", python(join.survival), self.names)
        kept = f"self.{name}"
        local = self.new_local()
        if unit == "sample":
            branch = self.keep(self.run(join.branches[0], Value(source), local), local).text
            self.constructor.helpers.add("drop_samples")
            self.say("if self.training:")
            scaled = f" / {kept}" if rescale == "train" else ""
            self.say(f"    {branch} = drop_samples({branch}{scaled}, {kept})")
            if rescale == "test":
                self.say("else:")
                self.say(f"    {branch} = {branch} * {kept}")
            others = [self.others(items, source, own, self.new_local()) for items in join.branches[1:]]
            return Value(_together(join, [branch, *others]), fresh=True, tight=False)
        waiting = [self.new_local() for _ in join.branches[1:]]  # which the branch must not overwrite
        lines, self.lines, self.indent = self.lines, [], self.indent + 4  # modules are made in the order of the tree
        result = self.keep(self.run(join.branches[0], Value(source), local), local)
        branch = result.text
        branch_lines, self.lines, self.indent = self.lines, lines, self.indent - 4
        others = [
            self.others(items, source, own, local) for items, local in zip(join.branches[1:], waiting, strict=True)
        ]
        self.say(f'if not self.training or torch.rand((), device="cpu").item() < {kept}:')
        self.lines += branch_lines
        self.indent += 4
        when, scaled = ("not self.training", f" * {kept}") if rescale == "test" else ("self.training", f" / {kept}")
        self.say(f"if {when}:")
        self.say(f"    {branch} = {branch}{scaled}")
        total = Value(_together(join, [branch, *others]), fresh=True)
        if join.merge == "add" and result.fresh:  # nothing else holds the branch
            self.say(f"{branch} += {others[0]}")
            total = Value(branch, fresh=True)
        self.say(f"{own} = {self.acted(act, total)}")
        self.indent -= 4
        dropped = others[-1] if join.merge == "add" else f"{others[1]} - {others[0]} * {others[1]}"
        dropped = self.acted(act, Value(dropped, fresh=join.merge != "add"))
        if dropped != own:
            self.say("else:")
            self.say(f"    {own} = {dropped}")
        return Value(own, fresh=False)

    def acted(self, act: Layer | None, value: Value) -> str:
        """A value after an activation, if there is one."""
        function = FORMS[ops.Act].function
        if act is None or function is None:
            return value.text
        return function(act, value.text, value.fresh)

    def others(self, items: Sequence[Item], source: str, own: str, local: str) -> str:
        """A gate or a shortcut in a variable."""
        value = self.run(items, Value(source), local)
        return value.text if value.text == own else self.keep(value, local).text

    def new_branch(self, join: Join) -> int | None:
        """The branch that holds what a residual or a concatenation adds; the other one is the old value."""
        if join.sample.residual:
            return 0
        owners = [at for at, items in enumerate(join.branches) if items and not _is_identity(items)]
        return owners[0] if len(join.branches) == 2 and len(owners) == 1 else None

    def recomputed(self, join: Join, items: Sequence[Item], source: str) -> Value:
        """A branch whose inside is not kept for backward, but computed again."""
        name = "new_features" if join.merge == "concat" else "residual"
        while self.constructor.has(name) or any(f"def {name}(" in line for method in self.methods for line in method):
            name += "_"
        lines, indent, local = self.lines, self.indent, self.local
        pending, self.pending, self.inside = self.pending, set(), True
        self.lines, self.indent, self.local = [], 0, {"x"}
        self.give(self.run(items, Value("x"), "x"))
        self.methods.append([f"def {name}(self, x: Tensor) -> Tensor:", *[f"    {line}" for line in self.lines]])
        self.lines, self.indent, self.local = lines, indent, local
        self.pending, self.inside = pending, False
        self.constructor.helpers.add("recomputed")
        target = self.new_local()
        self.methods.append(
            [
                "@torch.jit.unused",
                f"def {name}_again(self, x: Tensor) -> Tensor:",
                f"    return recomputed(self, self.{name}, x)",
            ]
        )
        self.say("if self.training and torch.is_grad_enabled():")
        self.say(f"    {target} = self.{name}_again({source})")
        self.say("else:")
        self.say(f"    {target} = self.{name}({source})")
        return Value(target, fresh=False)

    def give(self, value: Value) -> None:
        """Return a value from a method."""
        if _is_tensor(value.text) or value.text == "x":
            self.say(f"return {value.text}")
        else:
            # What a module gives is Any to a type checker; x is a Tensor.
            self.say(f"x = {value.text}")
            self.say("return x")

    def tap(self, tap: Tap, value: Value, own: str) -> Value:
        """A side branch: an output of its own, or parameters that nothing computes with."""
        computed = tap.mode != "never" and tap.output is not None
        if computed and not value.is_name:
            value = self.keep(value, own)
        lines, before, pending = self.lines, set(self.local), set(self.pending)
        if not computed:  # the constructor makes the modules all the same
            self.lines = []
        if computed and tap.mode == "training":
            self.say("if self.training:")
            self.indent += 4
        result = self.run(tap.items, Value(value.text if computed else own), self.new_local())
        if computed:
            self.say(f'outputs["{tap.output}"] = {result.text}')
            value = replace(value, fresh=False)
        if computed and tap.mode == "training":
            self.indent -= 4
        # Nothing of the branch is mentioned again, so the variables are those of before, and so are those that may be freed.
        self.lines, self.local, self.pending = lines, before, pending
        return value

    def reference(self, name: str) -> str:
        """How forward reaches a module; one that is called by a number is no attribute in Python."""
        return f"self.{name}" if name.isidentifier() else f'getattr(self, "{name}")'


def _is_identity(items: Sequence[Item]) -> bool:
    return all(isinstance(item, Layer) and item.kind is ops.Identity for item in items)


def _together(join: Join, texts: Sequence[str]) -> str:
    """The value of branches together."""
    match join.merge:
        case "concat":
            return f"torch.cat([{', '.join(texts)}], 1)"
        case "mul":
            return " * ".join(texts)
        case "gate":
            new, gate, old = texts
            return f"{old} + {gate} * ({new} - {old})"
    return " + ".join(texts)


def _skips(item: Item) -> bool:
    """Whether a merge may leave its branch out."""
    return isinstance(item, Join) and item.sample.survival is not None and item.sample.survival.unit == "batch"


def _is_plain_act(item: Item) -> bool:
    """Whether an item is an activation that a function does."""
    if not (isinstance(item, Layer) and item.kind is ops.Act and item.when is None):
        return False
    return all(_is_literal(python(term)) for term in item.attributes.values())


def _is_tensor(text: str) -> bool:
    """Whether an expression is one call of a function of torch, whose result a type checker knows."""
    if not (text.startswith(("F.", "torch.")) and text.endswith(")")):
        return False
    call = ast.parse(text, mode="eval").body
    return isinstance(call, ast.Call)


def _is_literal(text: str) -> bool:
    """Whether a value is a number, a truth or a tuple, and mentions nothing."""
    try:
        ast.literal_eval(text)
    except ValueError:
        return False
    return True


def _gives_output(items: Sequence[Item]) -> bool:
    """Whether an output comes from inside of items."""
    for item in items:
        match item:
            case Tap() if item.output is not None and item.mode != "never":
                return True
            case Join() if any(_gives_output(branch) for branch in item.branches):
                return True
            case Use() if item.of.taps:
                return True
    return False

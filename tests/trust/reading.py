"""A second reading of the language: from a document to its ops, by docs/language.md alone.

It imports nothing from rescompile, and reads the YAML files of the block library itself. Tests compare elaborated
random specs with it: names, numbers, shapes, tensors, MACs, survival probabilities, outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import op_rules
from expressions import for_copy, spelled, value
from lines import Join, Leaf, Line, Mark, Rerun, Tap, leaves, refitted, shares, survived, taps_of
from op_rules import ACTS, ATTRIBUTES, LITERALS, MAIN, WORDS, Misfit, Shape
from scopes import COMBINATORS, Frame, Scope, library, sizes


@dataclass
class Reading:
    """The reading of a document: its line of ops, and the shapes of its parts outside of branches by name."""

    document: Mapping[str, Any]
    line: Line = ()
    shape: Shape = ()
    parts: dict[str, Shape] = field(default_factory=dict)
    blocks: dict[str, Any] = field(default_factory=dict)
    most: int = 20_000  # the limit on ops
    used: set[str] = field(default_factory=set)
    _names: set[str] = field(default_factory=set)
    _made: int = 0
    _inside: int = 0
    _kept: dict[tuple[str, int | None], tuple[int, Shape]] = field(default_factory=dict)
    _fixed: frozenset[tuple[str, int | None]] = frozenset()  # kept outside of the branch
    _marks: Iterator[int] = field(default_factory=count)
    _joins: Iterator[int] = field(default_factory=count)
    _built: dict[str, tuple[Line, bool]] = field(
        default_factory=dict
    )  # steps by name, and whether they keep values for others
    rerun: set[str] = field(default_factory=set)

    @property
    def outputs(self) -> dict[str, Shape]:
        """The shapes of the outputs in evaluation by name."""
        taps = {tap.output: tap.shape for tap in taps_of(self.line, computed=True) if tap.output}
        return {"logits": self.shape, **taps, **{name: self.parts[name] for name in self.document.get("features", ())}}

    @property
    def parameters(self) -> int:
        """The number of trainable parameters, side branches included."""
        tensors = (t for leaf in leaves(self.line) for t in leaf.made.tensors if t[0] in ("weight", "bias", "gain"))
        return sum(op_rules.math.prod(shape) for _, shape in tensors)

    @property
    def macs(self) -> int:
        """The number of multiply-adds in evaluation."""
        return sum(leaf.made.macs for leaf in leaves(self.line, computed=True))

    # --- steps --------------------------------------------------------------------------------------------------------

    def steps(self, steps: Sequence[Any], frame: Frame, scope: Scope, shape: Shape) -> tuple[Line, Shape]:
        """Read a sequence of steps; return the line and the output shape."""
        line: Line = ()
        for step in steps:
            more, shape = self.step(step, frame, scope, shape)
            line += more
        return line, shape

    def step(self, step: Any, frame: Frame, scope: Scope, shape: Shape) -> tuple[Line, Shape]:
        """Read one step of any form; return the line and the output shape."""
        if isinstance(step, list):
            return self.steps(step, frame, scope, shape)
        if isinstance(step, str):
            return (
                self.op(step, {}, frame, scope, shape)
                if step in WORDS
                else self.use({"block": step}, frame, scope, shape)
            )
        if "block" in step or "depth" in step:
            name = spelled(step["name"], frame.at(shape)) if "name" in step else None
            return self.remembered(name, scope, lambda: self.use(step, frame, scope, shape))
        if "if" in step:
            return self.step(self.chosen(step, frame, shape), frame, scope, shape)
        ((word, body),) = step.items()
        if word in ("keep", "use"):
            return self.mark(word, body, frame, shape)
        if word == "again":
            return self.again(spelled(body, frame.at(shape)), scope, shape)
        if word in WORDS and not _names(word, body):
            return self.op(word, body, frame, scope, shape)
        if word in COMBINATORS:
            return getattr(self, f"_{word}")(body, frame, scope, shape)
        name = spelled(word, frame.at(shape))
        return self.remembered(name, scope, lambda: self.named(name, body, frame, scope, shape))

    def chosen(self, step: Any, frame: Frame, shape: Shape) -> Any:
        """Return the step that conditions select."""
        while isinstance(step, dict) and "if" in step:
            step = step.get("then" if value(step["if"], frame.at(shape)) else "else", [])
        return step

    # --- steps that run again -----------------------------------------------------------------------------------------

    def remembered(self, name: str | None, scope: Scope, build: Callable[[], tuple[Line, Shape]]) -> tuple[Line, Shape]:
        """Read a step, and remember its line under its name so that it can run again."""
        kept, full = dict(self._kept), f"{scope.path}{name}"
        new = name is not None and full not in self._names
        found = build()
        if new and full in self._names:
            self._built[full] = found[0], self._kept != kept
        return found

    def again(self, name: str, scope: Scope, shape: Shape) -> tuple[Line, Shape]:
        """Run the step of this name in the same scope again. Raises Misfit if there is none, or if it cannot run again."""
        full = scope.path + name
        line, keeps = self._built.get(full, ((), True))
        if keeps or any(taps_of(line)):
            raise Misfit(f"{full} cannot run again")
        line, shape = refitted(line, shape, self._marks, {})
        self._made += sum(1 for _ in leaves(line, computed=True))
        self.rerun.add(full)
        return (Rerun(name, line),), shape

    # --- kept values --------------------------------------------------------------------------------------------------

    def mark(self, word: str, text: str, frame: Frame, shape: Shape) -> tuple[Line, Shape]:
        """Read a `keep` or `use` step. Raises Misfit if the value is unknown, or must not be kept here."""
        name, _, rest = text.partition("[")
        index = value(rest[:-1], frame.at(shape)) if rest else None
        if rest and (type(index) is not int or index < 0):
            raise Misfit(f"no index: {index}")
        if word == "keep":
            if (name, index) in self._fixed:
                raise Misfit(f"{text} is of outside this branch")
            self._kept[name, index] = next(self._marks), shape
        if (name, index) not in self._kept:
            raise Misfit(f"{text} is not known")
        number, shape = self._kept[name, index]
        return (Mark(word, name, index, number, shape),), shape

    def branch(
        self, step: Any, frame: Frame, scope: Scope, shape: Shape, name: str | None = None
    ) -> tuple[Line, Shape]:
        """Read a step whose kept values are visible inside it only."""
        kept, fixed = self._kept, self._fixed
        self._kept, self._fixed = dict(kept), frozenset(kept)
        found = self.named(name, step, frame, scope, shape) if name else self.step(step, frame, scope, shape)
        self._kept, self._fixed = kept, fixed
        return found

    def named(self, name: str, body: Any, frame: Frame, scope: Scope, shape: Shape) -> tuple[Line, Shape]:
        """Read a step with a name."""
        if isinstance(body, str) and body in WORDS:
            return self.op(body, {}, frame, scope, shape, name)
        if isinstance(body, str) or "block" in body or "depth" in body:
            use = {"block": body} if isinstance(body, str) else body
            return self.use({**use, "name": name}, frame, scope, shape)
        if isinstance(body, dict) and next(iter(body)) == "side":
            return self._side(body["side"], frame, scope, shape, name)
        if isinstance(body, dict) and next(iter(body)) not in COMBINATORS:
            ((word, given),) = body.items()
            return self.op(word, given, frame, scope, shape, name)
        full = scope.claim(self._names, name)
        found = self.step(body, frame, scope.inside(name, numbered=isinstance(body, list)), shape)
        self.part(full, found[1])
        return found

    def part(self, name: str, shape: Shape) -> None:
        """Remember the shape of a part that is not in a branch."""
        if not self._inside:
            self.parts[name] = shape

    def op(
        self, word: str, body: Any, frame: Frame, scope: Scope, shape: Shape, name: str | None = None
    ) -> tuple[Line, Shape]:
        """Read an op. Its own attributes take precedence over `defaults`, then over the network's `init`, then over the
        op's defaults."""
        kind = "act" if word in ACTS else word
        given = body if isinstance(body, dict) and body.keys().isdisjoint({"each", "first"}) else {MAIN[kind]: body}
        here = frame.at(shape)
        if "when" in given and not value(given["when"], here):
            return (), shape
        self.used.add(word)
        found = {"kind": word} if word in ACTS else {}
        top = {**here, **self.top} | {k: here[k] for k in ("index", "depth") if k in here}
        for attribute, (type_, _) in ATTRIBUTES[kind].items():
            if attribute in given:
                raw, names = given[attribute], here
            elif attribute in self.document.get("defaults", {}).get(word, {}):
                raw, names = self.document["defaults"][word][attribute], top
            elif attribute == "init" and "init" in self.document:
                raw, names = self.document["init"], top
            else:
                continue
            given_value = value(for_copy(raw, names), names, LITERALS)
            found[attribute] = self.typed(given_value, type_, attribute, len(shape) - 1)
        made = op_rules.made(kind, found, shape)
        self._made += 1
        if self._made > self.most:
            raise Misfit("too large")
        number = None if name else scope.next()
        if name or (made.tensors and not number):
            scope.claim(self._names, name or word)
        if name or made.tensors or number:
            self.part(scope.path + (name or number or word), made.output)
        return (Leaf(scope.path + (name or number or word), kind, made, shape),), made.output

    def typed(self, given: Any, type_: str, name: str, axes: int) -> Any:
        """Return the value of an attribute of an op on maps with this number of axes. Raises Misfit if it has the wrong
        type."""
        if type_ == "size" and given != "same":
            size = tuple(given) if isinstance(given, list) else (given,) * axes
            if len(size) != axes or not all(type(n) is int and (n >= 0 or name in ("before", "after")) for n in size):
                raise Misfit(f"no size: {given}")
            return size
        if type_ == "int" and (type(given) is not int or given < (name != "number")):
            raise Misfit(f"no number of something: {given}")
        return given

    # --- blocks -------------------------------------------------------------------------------------------------------

    def use(self, use: Mapping[str, Any], frame: Frame, scope: Scope, shape: Shape) -> tuple[Line, Shape]:
        """Read the use of a block, once or in copies."""
        word = use.get("block", self.document.get("block"))
        word = frame.names.get(word, word) if frame.inside else word
        if word == "identity":
            return (), shape
        if word not in self.blocks:
            raise Misfit(f"no block {word}")
        block, here = self.blocks[word], frame.at(shape)
        if "depth" not in use and not value(use.get("when", True), here):
            return (), shape
        self.used.add(word)
        if "depth" not in use:
            return self.once(word, use, frame, scope, shape)
        depth, line, name = value(use["depth"], here), (), use.get("name")
        full = scope.claim(self._names, spelled(name, here)) if name else None
        outer = Scope(f"{full}.") if full else scope
        spliced = not name and block.get("inline") and "members" not in use
        for index in range(depth):
            copy = {"index": index, "depth": depth}
            caller = Frame({**frame.names, **copy}, frame.inside)
            if not value(use.get("when", True), caller.at(shape)):
                continue
            inner = self.bound(word, use, caller, copy, shape)
            if spliced:
                more, shape = self.body(block, inner, scope.of_macro(block["body"]), shape)
            else:
                template = use.get("members", block.get("members"))
                names = caller.at(shape) if "members" in use else inner.at(shape)
                member = spelled(template or "{index}", names) if template or name else scope.next()
                if member is None:
                    raise Misfit("copies without a name")
                if template or name:
                    outer.claim(self._names, member)
                more, shape = self.body(block, inner, outer.inside(member, bool(block.get("inline"))), shape)
                self.part(f"{outer.path}{member}", shape)
            line += more
        if full:
            self.part(full, shape)
        return line, shape

    def once(self, word: str, use: Mapping[str, Any], frame: Frame, scope: Scope, shape: Shape) -> tuple[Line, Shape]:
        """Read the use of a block without `depth`: a scope, or a macro."""
        block = self.blocks[word]
        inner = self.bound(word, use, frame, {}, shape)
        name = spelled(use["name"], frame.at(shape)) if "name" in use else None
        if name is None and block.get("inline"):
            return self.body(block, inner, scope.of_macro(block["body"]), shape)
        if name:
            scope.claim(self._names, name)
        name = name or scope.next()
        if name is None:
            raise Misfit("a block without a name")
        found = self.body(block, inner, scope.inside(name, bool(block.get("inline"))), shape)
        self.part(f"{scope.path}{name}", found[1])
        return found

    def body(self, block: Mapping[str, Any], frame: Frame, scope: Scope, shape: Shape) -> tuple[Line, Shape]:
        """Read the steps of a block, or nothing if its condition is false."""
        if not value(block.get("when", True), frame.at(shape)):
            return (), shape
        kept, fixed, names = self._kept, self._fixed, block.get("values", ())
        self._kept = {key: known for key, known in kept.items() if key[0] in names}
        self._fixed = frozenset(key for key in fixed if key[0] in names)
        found = self.steps(block["body"], frame, scope, shape)
        kept |= {key: known for key, known in self._kept.items() if key[0] in names}
        self._kept, self._fixed = kept, fixed
        return found

    def bound(self, word: str, use: Mapping[str, Any], frame: Frame, copy: Mapping[str, int], shape: Shape) -> Frame:
        """Return the names in a block: parameters (row before defaults before block), then lets."""
        block, defaults = self.blocks[word], self.document.get("defaults", {}).get(word, {})
        names: dict[str, Any] = {"in_channels": shape[0], **copy}
        for name, written in block.get("parameters", {}).items():
            definition = written if isinstance(written, dict) else {"default": written}
            if written in ("int", "real", "bool", "list", "size", "block"):
                definition = {"type": written}
            words = set(definition.get("one_of", ()))
            names |= {each: each for each in words}
            if definition.get("type") == "block":
                words |= {*self.blocks, "identity", "none"}
            later = definition.get("only") == "first" and copy.get("index", 0) > 0
            given, where = use.get(name, defaults.get(name)), frame.at(shape)
            if name not in use and name in defaults:
                where = {**self.top, "in_channels": shape[0], **copy}
            if given is None or (later and not isinstance(given, dict)):
                given, where = definition["default"], {**sizes(shape), **names}
            if isinstance(given, dict):
                where = {**where, **copy}
            names[name] = value(for_copy(given, where), where, words)
        for name, raw in block.get("let", {}).items():
            names[name] = value(raw, {**sizes(shape), **names})
        return Frame(names, inside=True)

    # --- merges and side branches -------------------------------------------------------------------------------------

    def _residual(self, body: Mapping[str, Any], frame: Frame, scope: Scope, shape: Shape) -> tuple[Line, Shape]:
        shortcut = self.chosen(body.get("shortcut", []), frame, shape)
        word = shortcut.get("block") if isinstance(shortcut, dict) else shortcut
        if isinstance(word, str) and frame.names.get(word, word) == "none":
            if "gate" in body:
                raise Misfit("a gate without a shortcut")
            return self.branch(body["branch"], frame, scope, shape)
        self._inside += 1
        branch, output = self.branch(body["branch"], frame, scope, shape)
        around = Frame({**frame.names, "out_channels": output[0]}, frame.inside)
        lines, shapes = [branch], [output]
        for part in ([body["gate"]] if "gate" in body else []) + [shortcut]:
            line, made = self.branch(part, around, scope.unnumbered(), shape)
            lines.append(line)
            shapes.append(made)
        self._inside -= 1
        scope.next()
        merge = "gate" if "gate" in body else "add"
        return (Join(merge, tuple(lines), next(self._joins), residual=True),), op_rules.merged(merge, shapes)

    def _parallel(self, body: Mapping[str, Any], frame: Frame, scope: Scope, shape: Shape) -> tuple[Line, Shape]:
        copies = value(body["copies"], frame.at(shape)) if "copies" in body else None
        merge, count, split = body["merge"], copies or len(body["branches"]), body.get("split", False)
        split = (
            [value(size, frame.at(shape)) for size in split]
            if isinstance(split, list)
            else value(split, frame.at(shape))
        )
        unit = body.get("unit", "sample") if merge == "shake" else None
        given = shares(shape, split, count)
        self._inside += 1
        found = [self.branch(branch, frame, scope, given[at]) for at, branch in enumerate(body.get("branches", ()))]
        for copy in range(copies or 0):
            inner = Frame({**frame.names, "copy": copy}, frame.inside)
            found.append(self.branch(body["branch"], inner, scope.inside(str(copy)), given[copy]))
        self._inside -= 1
        scope.next()
        lines, shapes = zip(*found, strict=True)
        join = Join(
            merge, lines, next(self._joins), split=tuple(split) if isinstance(split, list) else split, unit=unit
        )
        return (join,), op_rules.merged(merge, shapes)

    def _side(
        self, body: Mapping[str, Any], frame: Frame, scope: Scope, shape: Shape, name: str | None = None
    ) -> tuple[Line, Shape]:
        self._inside += 1
        step, known = body["body"], {**self._built}
        if name:
            line, output = self.branch(step, frame, scope, shape, name)
        else:
            line, output = self.branch(step, frame, scope.unnumbered(), shape)
        self._inside -= 1
        if body["mode"] != "always":  # what evaluation does not compute runs again here alone
            self._built = known
        return (Tap(body["mode"], body.get("output"), line, output),), shape

    @property
    def top(self) -> dict[str, Any]:
        """The parameters of the network, in order."""
        if not hasattr(self, "_top"):
            self._top: dict[str, Any] = {}
            for name, raw in self.document.get("parameters", {}).items():
                self._top[name] = value(raw, self._top)
        return self._top


def read(document: Mapping[str, Any], most: int = 20_000) -> Reading:
    """Read a document. Raises Misfit if it is invalid."""
    reading = Reading(document, blocks={**library(), **document.get("blocks", {})}, most=most)
    line, reading.shape = reading.steps(document["network"], Frame(reading.top), Scope(), tuple(document["input"]))
    reading.line = survived(line, document["survival"]) if "survival" in document else line
    if document["network"] and not any(leaves(reading.line)):
        raise Misfit("no op")
    outputs = [tap.output for tap in taps_of(reading.line) if tap.output] + document.get("features", [])
    if len(outputs) != len({*outputs}) or not reading.parts.keys() >= {*document.get("features", ())}:
        raise Misfit("outputs of one name, or of no part")
    if any(
        name == step or name.startswith(f"{step}.") for name in document.get("features", ()) for step in reading.rerun
    ):
        raise Misfit("an output of what runs again")
    return reading


def _names(word: str, body: Any) -> bool:
    """Return whether the word of an op without attributes is used as the name of a step."""
    return not ATTRIBUTES.get(word, True) and (not isinstance(body, dict) or body.keys() != {"when"})

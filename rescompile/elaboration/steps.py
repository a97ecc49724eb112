"""Steps -> nodes: ops, groups, conditions, merges and side branches, threading the shape."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rescompile.diagnostics.errors import ShapeError, one_of
from rescompile.elaboration.frames import Frame, Path, Problem, Value
from rescompile.elaboration.scopes import Names, Scopes
from rescompile.elaboration.values import MAX_NODES
from rescompile.ir import network as tree
from rescompile.ir import ops
from rescompile.ir.network import Node, Op, Series, merge_shape, share
from rescompile.ir.ops import Shape
from rescompile.ir.provenance import NO_HINTS, Hints, Origin
from rescompile.lang.spec.rows import Use
from rescompile.lang.spec.spec import Spec
from rescompile.lang.spec.steps import If, NamedStep, OpStep, ParallelStep, ResidualStep, SideStep
from rescompile.lang.yaml_reader import locate

#: Steps and blocks inside one another; all that walks the tree later goes as deep.
MAX_DEPTH = 100


class Steps(Scopes):
    """Builds nodes. Every method returns the nodes of a step and the shape after it."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.top = Frame({}, (), ("network",))
        self.used: set[str] = set()  # words of ops and blocks
        self.nodes = self.depth = 0
        self.outputs: list[tuple[str, Path]] = []  # of side branches, and where they were named
        self.origins: dict[Path, Origin] = {}
        self.hints: dict[Path, Mapping[str, str]] = {}

    @abstractmethod
    def use(
        self, use: Use, path: Path, frame: Frame, shape: Shape, names: Names, name: str | None
    ) -> tuple[list[Node], Shape]:
        """The nodes of a block with arguments."""

    def steps(
        self, steps: Sequence[Any], path: Path, frame: Frame, shape: Shape, names: Names
    ) -> tuple[list[Node], Shape]:
        nodes: list[Node] = []
        for at, step in enumerate(steps):
            new, shape = self.step(step, (*path, at), frame, shape, names)
            nodes += new
        return nodes, shape

    def step(
        self, step: Any, path: Path, frame: Frame, shape: Shape, names: Names, name: str | None = None
    ) -> tuple[list[Node], Shape]:
        """The nodes of one step and the shape after it; `name` is the name it was given, already claimed."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.blamed("E0208", f"steps and blocks are nested more than {MAX_DEPTH} deep", path, frame)
        try:
            return self.form(step, path, frame, shape, names, name)
        finally:
            self.depth -= 1

    def form(
        self, step: Any, path: Path, frame: Frame, shape: Shape, names: Names, name: str | None
    ) -> tuple[list[Node], Shape]:
        """The nodes of a step by its form."""
        match step:
            case str():
                if step in ops.WORDS:
                    return self.op(step, {}, path, frame, shape, names, name)
                return self.use(Use(block=step), path, frame, shape, names, name)
            case list():
                if name is None:
                    return self.steps(step, path, frame, shape, names)
                return self.scope(step, path, frame, shape, name, numbered=True)
            case NamedStep() if name is not None:
                return self.scope([step], path[:-1], frame, shape, name, at=path[-1])
            case NamedStep():
                inner = (*path, step.name)
                given = step.step
                if not self.is_there(given, inner, frame, shape):
                    return [], shape
                claimed = self.explicit(step.name, inner, frame, names, shape)
                return self.step(given, inner, frame, shape, names, claimed)
            case OpStep():
                inner = (*path, step.word)
                if name is None and not self.is_there(step, path, frame, shape):
                    return [], shape
                return self.op(step.word, step.given, inner, frame, shape, names, name, step.when)
            case If():
                holds = self.condition(step.if_, frame, (*path, "if"), in_channels=shape[0])
                chosen, key = (step.then, "then") if holds else (step.else_, "else")
                if chosen is None:
                    return [], shape
                nodes, output = self.step(chosen, (*path, key), frame, shape, names, name)
                when = str(step.if_) if holds else f"not ({step.if_})"
                return [_because(node, when) for node in nodes], output
            case ResidualStep() | ParallelStep() if name is not None:
                return self.scope([step], path[:-1], frame, shape, name, at=path[-1])
            case ResidualStep():
                return self.residual(step, (*path, "residual"), frame, shape, names)
            case ParallelStep():
                return self.parallel(step, (*path, "parallel"), frame, shape, names)
            case SideStep():
                return self.side(step, (*path, "side"), frame, shape, names, name)
            case Use():
                return self.use(step, path, frame, shape, names, name)
        raise AssertionError(step)

    def is_there(self, step: Any, path: Path, frame: Frame, shape: Shape) -> bool:
        """Whether a step is in the network at all; if not, its name stays free. A repeated block decides for each copy."""
        match step:
            case If(else_=None):
                return self.condition(step.if_, frame, (*path, "if"), in_channels=shape[0])
            case OpStep() if step.when is not None:
                return self.condition(step.when, frame, (*path, step.word, "when"), in_channels=shape[0])
            case Use(depth=None) if step.when is not None:
                return self.condition(step.when, frame, (*path, "when"), in_channels=shape[0])
        return True

    def scope(
        self,
        steps: list[Any],
        path: Path,
        frame: Frame,
        shape: Shape,
        name: str,
        numbered: bool = False,
        at: Any = None,
    ) -> tuple[list[Node], Shape]:
        """A named group: a numbered list, or a scope around one merge."""
        names = self.names_of(steps, numbered)
        if at is None:
            nodes, output = self.steps(steps, path, frame, shape, names)
        else:
            nodes, output = self.step(steps[0], (*path, at), frame, shape, names)
        return [Series(tuple(nodes), shape, output, name, origin=self.origin(path))], output

    def origin(self, path: Path) -> Origin:
        if path not in self.origins:
            place = locate(self.document, path, key=True)
            self.origins[path] = Origin(place.source.name, place.line, ".".join(str(step) for step in path))
        return self.origins[path]

    def grow(self, path: Path, frame: Frame, count: int = 1) -> None:
        """Count nodes, those that copies share too, and refuse to go on past the limit."""
        self.nodes += count
        if self.nodes > MAX_NODES:
            raise self.blamed("E0208", f"the network has more than {MAX_NODES:,} nodes", path, frame)

    def op(
        self,
        word: str,
        given: Mapping[str, Any],
        path: Path,
        frame: Frame,
        shape: Shape,
        names: Names,
        name: str | None,
        when: Any = None,
    ) -> tuple[list[Node], Shape]:
        self.used.add(word)
        self.grow(path, frame)
        kind, fixed = ops.WORDS[word]
        defaults = self.spec.defaults.get(word, {})
        subject = name or word
        values: dict[str, Value] = dict(fixed)
        for attribute, facts in ops.attributes(word).items():
            if attribute in given:
                raw, where, scope = given[attribute], (*path, attribute), frame
            elif attribute in defaults:
                raw, where, scope = defaults[attribute], ("defaults", word, attribute), self.top
            elif attribute == "init" and self.spec.init is not None:
                raw, where, scope = self.spec.init, ("init",), self.top
            else:
                continue
            raw, where = self.at(
                raw, where, frame.values.get("index"), frame.values.get("depth"), f"{subject}.{attribute}"
            )
            place = {key: frame.values[key] for key in ("index", "depth") if key in frame.values}
            value = self.evaluate(raw, scope, where, facts.words, in_channels=shape[0], **place)
            fit = (
                self.nearest_fit(given, frame, shape) if attribute == "channels" and isinstance(value, float) else None
            )
            values[attribute] = self.typed(value, facts, f"{subject}.{attribute}", where, scope, raw, fit)
        idle = self.check_effect(word, given, values, path, frame)
        try:
            made = kind(**{name: value for name, value in values.items() if name not in idle})
            output = made.output(shape)
        except ShapeError as error:
            raise self.misfit(error, word, subject, given, path, frame, shape) from None
        if name is None:
            name = self.automatic(word, path, frame, names, owns=bool(made.parameters(shape)))
        if path not in self.hints:
            texts = {
                key: raw
                for key, raw in given.items()
                if isinstance(raw, str) and raw not in ops.attributes(word)[key].words
            }
            self.hints[path] = texts or NO_HINTS
        node = Op(name, made, shape, output, self.hints[path], self.origin(path), None if when is None else str(when))
        return [node], output

    def check_effect(
        self, word: str, given: Mapping[str, Any], values: Mapping[str, Value], path: Path, frame: Frame
    ) -> set[str]:
        """Refuse an attribute that a step gives and that can have no effect beside its others. Those of defaults, which are
        for all steps of a word, are passed over where they have none: their names come back."""
        kind = values.get("kind", getattr(ops.WORDS[word][0], "kind", None))
        limited = {name: facts.only for name, facts in ops.attributes(word).items() if facts.only}
        idle = {name for name, kinds in limited.items() if kind not in kinds}
        for name in given:
            if name in idle:
                message = f"{word} of kind {kind} has no {name}; only {one_of(limited[name])} has"
                raise self.blamed("E0402", message, (*path, name), frame, key=True)
        if "bias_init" in given and values.get("bias", word == "linear") is False:
            message = f"this {word} has no bias to be initialised"
            raise self.blamed("E0402", message, (*path, "bias_init"), frame, help="write 'bias: true'", key=True)
        return idle

    def misfit(
        self,
        error: ShapeError,
        word: str,
        subject: str,
        given: Mapping[str, Any],
        path: Path,
        frame: Frame,
        shape: Shape,
    ) -> Problem:
        raw = given.get(error.attribute) if error.attribute else None
        if raw is None and error.attribute and error.attribute in self.spec.defaults.get(word, {}):
            raise self.problem(
                error.code, f"{subject} {error.message}", ("defaults", word, error.attribute), error.help
            )
        where = (*path, error.attribute) if error.attribute is not None and error.attribute in given else path
        help = error.help
        if error.code == "E0203" and error.attribute == "channels":
            help = self.nearest_fit(given, frame, shape) or help
        by_shape = error.code != "E0203" or error.attribute != "channels"
        return self.blamed(
            error.code, f"{subject} {error.message}", where, frame, raw, help, by_shape and error.code != "E0205"
        )

    def residual(
        self, step: ResidualStep, path: Path, frame: Frame, shape: Shape, names: Names
    ) -> tuple[list[Node], Shape]:
        parts = step.residual
        nodes, output = self.step(parts.branch, (*path, "branch"), frame, shape, names)
        if self.is_none(parts.shortcut, frame):
            if parts.gate is not None:
                raise self.blamed(
                    "E0207",
                    "a gate needs a shortcut to weigh against, and this residual has none",
                    (*path, "gate"),
                    frame,
                )
            return nodes, output
        branches = [Series(tuple(nodes), shape, output)]
        around = names.unnumbered()
        inner = frame.with_values(out_channels=output[0])
        merge: tree.Merge = "add"
        if parts.gate is not None:
            merge = "gate"
            nodes, gate_output = self.step(parts.gate, (*path, "gate"), inner, shape, around)
            branches.append(Series(tuple(nodes), shape, gate_output))
            if not _bounded(branches[1]):
                raise self.blamed(
                    "E0207",
                    "a gate must lie between 0 and 1, and this one ends in no sigmoid",
                    (*path, "gate"),
                    frame,
                    help=f"end it with {one_of(ops.BOUNDED)}",
                )
        nodes, shortcut_output = [], shape
        if parts.shortcut is not None:
            nodes, shortcut_output = self.step(parts.shortcut, (*path, "shortcut"), inner, shape, around)
        branches.append(Series(tuple(nodes), shape, shortcut_output))
        return self.merged(branches, merge, path, frame, shape, names, residual=True)

    def is_none(self, shortcut: Any, frame: Frame) -> bool:
        """Whether a shortcut is the word `none`: written there, or the value of a parameter."""
        word = shortcut.block if isinstance(shortcut, Use) else shortcut if isinstance(shortcut, str) else None
        return word is not None and frame.values.get(word, word) == "none"

    def parallel(
        self, step: ParallelStep, path: Path, frame: Frame, shape: Shape, names: Names
    ) -> tuple[list[Node], Shape]:
        parts = step.parallel
        branches = []
        copies = 0
        if parts.copies is not None:
            copies = self.whole(parts.copies, frame, (*path, "copies"), "copies", 1, in_channels=shape[0])
        given = shape
        if parts.split:
            try:
                given = share(shape, copies or len(parts.branches or ()))
            except ShapeError as error:
                key = "split" if parts.copies is None else "copies"
                message = f"this parallel {error.message}"
                raise self.blamed(error.code, message, (*path, key), frame, parts.copies, by_shape=True) from None
        for at, branch in enumerate(parts.branches or ()):
            nodes, output = self.step(branch, (*path, "branches", at), frame, given, names)
            branches.append(Series(tuple(nodes), given, output))
        for copy in range(copies):
            name = str(copy)
            self.claim(name, (*path, "copies"), frame, names)
            inner = frame.with_values(copy=copy)
            nodes, output = self.step(parts.branch, (*path, "branch"), inner, given, self.names_of([parts.branch]))
            named = Series(tuple(nodes), given, output, name, origin=self.origin((*path, "branch")))
            branches.append(Series((named,), given, output))
        hints = {"copies": parts.copies} if isinstance(parts.copies, str) else NO_HINTS
        return self.merged(branches, parts.merge, path, frame, shape, names, split=parts.split, hints=hints)

    def merged(
        self,
        branches: list[Series],
        merge: tree.Merge,
        path: Path,
        frame: Frame,
        shape: Shape,
        names: Names,
        residual: bool = False,
        split: bool = False,
        hints: Hints = NO_HINTS,
    ) -> tuple[list[Node], Shape]:
        self.grow(path, frame)
        try:
            output = merge_shape(merge, [branch.output for branch in branches])
        except ShapeError as error:
            message, help, where = error.message, error.help, path
            made, kept = branches[0].output, branches[-1].output
            if residual and made != kept:
                verb = "added" if merge == "add" else "weighed against one another"
                message = f"the branch gives {list(made)} and its shortcut {list(kept)}, so they cannot be {verb}"
                help = self.fitting(made, shape, frame)
            elif merge == "gate":
                message = f"the gate gives {list(branches[1].output)} and weighs maps of {list(made)}; they must agree"
                where = (*path, "gate")
            elif any(isinstance(node, Op) and isinstance(node.kind, ops.Upsample) for _, node in _walked(branches)):
                help = (
                    "a side that a stride does not divide is not made whole again by upsample: change the input's size"
                )
            blame = "stride" if "stride" in frame.given else "width"
            raise self.blamed(error.code, message, where, frame, blame, help, True) from None
        name = self.automatic(merge, path, frame, names, merge=True)
        origin = self.origin(path)
        node = tree.Parallel(
            name, tuple(branches), merge, shape, output, residual, split=split, origin=origin, hints=hints
        )
        return [node], output

    def fitting(self, made: Shape, shape: Shape, frame: Frame) -> str | None:
        """The shortcut of the library that would fit, as one would write it there."""
        if len(made) != 3 or len(shape) != 3:
            return None
        stride = next(
            (s for s in range(1, 9) if all(-(-n // s) == m for n, m in zip(shape[1:], made[1:], strict=True))), None
        )
        if stride is None:
            return f"the branch changes the map from {shape[1]}x{shape[2]} to {made[1]}x{made[2]}; 'padding: same' keeps its size"
        if frame.block is not None and frame.block.parameters.get("shortcut"):
            return f"'shortcut: projection' makes {made[0]} channels of {shape[0]}" + (
                f" and takes the stride {stride}" if stride > 1 else ""
            )
        strided = f", stride: {stride}" if stride > 1 else ""
        return f"write shortcut: {{block: projection, channels: out_channels{strided}}}"

    def side(
        self, step: SideStep, path: Path, frame: Frame, shape: Shape, names: Names, name: str | None
    ) -> tuple[list[Node], Shape]:
        parts = step.side
        where = (*path, "body")
        if name is not None:
            nodes, output = self.step(parts.body, where, frame, shape, names, name)
        else:
            nodes, output = self.step(parts.body, where, frame, shape, names.unnumbered())
        child = Series(tuple(nodes), shape, output)
        if parts.output is not None:
            self.outputs.append((parts.output, (*path, "output")))
        return [tree.Side(child, parts.output, parts.mode, shape, self.origin(path))], shape


def _walked(branches: Sequence[Series]) -> Iterator[tuple[str, Node]]:
    """Every node of some branches."""
    return (found for branch in branches for found in tree.walk(branch))


def _because(node: Node, when: str) -> Node:
    if isinstance(node, tree.Side):
        return node
    return replace(node, when=when if node.when is None else f"({when}) and ({node.when})")


def _bounded(series: Series) -> bool:
    """Whether the last thing that a series does is an activation between fixed bounds."""
    for node in reversed(series.children):
        match node:
            case Op(kind=ops.Act(kind=kind)):
                return kind in ops.BOUNDED
            case Series(children=()) | tree.Side() | Op(kind=ops.Identity() | ops.Dropout()):
                continue
            case Series():
                return _bounded(node)
            case _:
                return False
    return False

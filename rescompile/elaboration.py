"""Spec -> Network: evaluates the expressions of rows and blocks and builds the tree, with shapes.

The only module that knows both. The numbers are the truth; the expressions they came from ride along as hints. A mistake
is reported where the user wrote its cause, even when it shows up inside a block of the library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rescompile import names as naming
from rescompile import network as tree
from rescompile import ops
from rescompile.canonical import canonical
from rescompile.errors import Diagnostic, Place, ShapeError, SpecError, nearest, one_of
from rescompile.expressions import ExpressionError, parse, show
from rescompile.features import add_features
from rescompile.network import NO_HINTS, Call, Network, Node, Op, Origin, Series, merge_shape
from rescompile.ops import Attribute, Shape
from rescompile.reader import inside, locate
from rescompile.spec import (
    Block,
    Each,
    FirstRest,
    If,
    NamedStep,
    OpStep,
    ParallelStep,
    ParameterDefinition,
    ResidualStep,
    SideStep,
    Spec,
    Use,
    template_parts,
)
from rescompile.survival import add_survival
from rescompile.wellformed import verify

MAX_NODES = 2_000_000
MAX_PARAMETERS = 1 << 36
MAX_CALLS = 32

Path = tuple[str | int, ...]
Value = Any


def elaborate(spec: Spec) -> Network:
    """Build the tree of a spec. Raises SpecError with every mistake found, located where the user wrote its cause."""
    elaborator = _Elaborator(spec)
    root = elaborator.network()
    if elaborator.problems:
        raise SpecError(elaborator.problems)
    text, sha256 = canonical(spec, elaborator.used)
    network = Network(
        spec.name, root, text, sha256, checkpoint=spec.checkpoint,
        preprocess=spec.preprocess.model_dump(exclude_none=True) if spec.preprocess else None,
    )  # fmt: skip
    verify(network)
    return network


@dataclass(frozen=True, slots=True)
class _Given:
    """Where a parameter's value was written, and the frame it was written in; `raw` is as written."""

    path: Path
    frame: _Frame
    raw: Any


@dataclass(slots=True)
class _Frame:
    """What expressions may mention: the parameters and lets of one use of a block, or the network's own."""

    values: dict[str, Value]
    path: Path  # of the definition
    use: Path  # of the step or row that uses it
    words: frozenset[str] = frozenset()
    block: Block | None = None
    word: str | None = None
    caller: _Frame | None = None
    given: dict[str, _Given] = field(default_factory=dict)
    nesting: int = 0

    def with_values(self, **values: Value) -> _Frame:
        return replace(self, values=self.values | values)


class _Names:
    """The names of one scope. In a numbered one, steps without a name count from 0; elsewhere ops are called by their
    word. A step with a name of its own takes no number."""

    def __init__(self, numbered: bool = False) -> None:
        self.numbered = numbered
        self.count = 0
        self.taken: dict[str, Path] = {}
        self.named: Path | None = None
        self.unnamed: Path | None = None

    def unnumbered(self) -> _Names:
        """The same scope seen from a shortcut or a gate, whose steps take no number."""
        seen = _Names()
        seen.taken = self.taken
        return seen


class _Problem(Exception):
    """One diagnostic; `by_shape` says that it may only follow from an earlier mistake."""

    def __init__(self, diagnostic: Diagnostic, by_shape: bool = False) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic, self.by_shape = diagnostic, by_shape


class _Elaborator:
    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.document = spec._document
        self.problems: list[Diagnostic] = []
        self.used: set[str] = set()
        self.nodes = 0
        self.poisoned = False
        self.memo: dict[Any, tuple[tuple[Node, ...], Shape]] = {}
        self.origins: dict[Path, Origin] = {}
        self.hints: dict[Path, Mapping[str, str]] = {}
        self.varying: dict[str | None, bool] = {}
        self.block_words = frozenset({*spec.blocks, "none"})
        self.top = _Frame({}, (), ("network",))

    # --- the network ---

    def network(self) -> Series:
        spec = self.spec
        assert spec.input is not None
        assert spec.network is not None
        for name, raw in spec.parameters.items():
            try:
                self.top.values[name] = self.evaluate(raw, self.top, ("parameters", name), self.block_words)
            except _Problem as problem:
                self.note(problem)
        shape: Shape = tuple(spec.input)
        children = self.rows(spec.network, ("network",), self.top, shape, _Names())
        output = children[-1].output if children else shape
        root = Series(tuple(children), shape, output)
        if self.problems:
            return root
        self.check_defaults()
        if not any(isinstance(node, Op) for _, node in tree.walk(root)):
            self.note(self.problem("E0603", "the network does nothing: it has no op", ("network",), key=True))
        count = sum(parameter.size for _, parameter in tree.parameters(Network(spec.name, root)))
        if count > MAX_PARAMETERS:
            self.note(
                self.problem(
                    "E0208",
                    f"the network has {count:,} parameters, more than {MAX_PARAMETERS:,}",
                    ("network",),
                    key=True,
                )
            )
        for add, key in ((add_survival, "survival"), (add_features, "features")):
            value = getattr(spec, key)
            if value is not None and not self.problems:
                try:
                    root = add(root, value)
                except ShapeError as error:
                    path: Path = (key, error.attribute) if error.attribute else (key,)
                    if key == "features" and error.attribute:
                        path = (key, value.index(error.attribute))
                    self.note(self.problem(error.code, error.message, path, error.help))
        if not self.problems:
            self.check_outputs(root)
        return root

    def check_outputs(self, root: Series) -> None:
        taken = {tree.INPUT, tree.LOGITS}
        for _, node in tree.walk(root):
            if isinstance(node, tree.Side) and node.output_name is not None:
                if node.output_name in taken:
                    self.note(
                        self.problem(
                            "E0604",
                            f"two outputs are called '{node.output_name}'",
                            ("network",),
                            "give each side branch another 'output'",
                            key=True,
                        )
                    )
                taken.add(node.output_name)

    def rows(self, steps: Sequence[Any], path: Path, frame: _Frame, shape: Shape, names: _Names) -> list[Node]:
        """The rows of the network. A wrong row is noted and passed over, so that later rows are checked too."""
        nodes: list[Node] = []
        for at, step in enumerate(steps):
            try:
                if isinstance(step, NamedStep) and isinstance(step.step, list):
                    name = self.explicit(step.name, (*path, at, step.name), frame, names)
                    inner = self.rows(step.step, (*path, at, step.name), frame, shape, _Names(numbered=True))
                    new: list[Node] = [Series(tuple(inner), shape, inner[-1].output if inner else shape, name)]
                else:
                    new, _ = self.step(step, (*path, at), frame, shape, names)
            except _Problem as problem:
                self.note(problem)
                continue
            nodes += new
            shape = nodes[-1].output if nodes else shape
        return nodes

    def note(self, problem: _Problem) -> None:
        if not (self.poisoned and problem.by_shape) and problem.diagnostic not in self.problems:
            self.problems.append(problem.diagnostic)
        self.poisoned = True

    def check_defaults(self) -> None:
        """Defaults that nothing uses are an error in the file that says them, and left out where inherited."""
        for word in self.spec.defaults:
            path: Path = ("defaults", word)
            if word not in self.used and locate(self.document, path, key=True).source == self.document.place.source:
                self.note(self.problem("E0410", f"nothing in the network uses '{word}'", path, key=True))

    # --- problems ---

    def problem(
        self, code: str, message: str, path: Path, help: str | None = None, key: bool = False, by_shape: bool = False
    ) -> _Problem:
        return _Problem(Diagnostic(code, message, locate(self.document, path, key), help=help), by_shape)

    def blamed(
        self,
        code: str,
        message: str,
        path: Path,
        frame: _Frame,
        raw: Any = None,
        help: str | None = None,
        by_shape: bool = False,
    ) -> _Problem:
        """A problem inside a block, at what the user wrote to cause it; the step of the block goes into a note."""
        if frame.block is None:
            return self.problem(code, message, path, help, by_shape=by_shape)
        place = self.cause(raw, frame) or self.use_place(frame)
        return _Problem(Diagnostic(code, message, place, self.trail(path, frame, raw), help), by_shape)

    def use_place(self, frame: _Frame) -> Place:
        """The outermost step that led here."""
        while frame.caller is not None and frame.caller.block is not None:
            frame = frame.caller
        return locate(self.document, frame.use, key=True)

    def cause(self, raw: Any, frame: _Frame) -> Place | None:
        """Where the user wrote a value that `raw` depends on: in the spec itself rather than in its bases or blocks."""
        places = list(self.causes(raw, frame))
        own = [place for place in places if place.source == self.document.place.source]
        return next(iter(own or places), None)

    def causes(self, raw: Any, frame: _Frame) -> Iterable[Place]:
        for text in _texts(raw):
            for name in parse(text).names:
                if frame.block is not None and name in frame.block.let:
                    yield from self.causes(frame.block.let[name], frame)
                elif name in frame.given:
                    given = frame.given[name]
                    if given.frame.block is None:
                        yield locate(self.document, given.path)
                    else:
                        yield from self.causes(given.raw, given.frame)

    def trail(self, path: Path, frame: _Frame, raw: Any = None) -> tuple[str, ...]:
        """`in block bottleneck, step conv2 (blocks/bottleneck.yaml:9), from inner = width * ...`, innermost first."""
        notes = []
        inner: _Frame | None = frame
        while inner is not None and inner.block is not None:
            place = locate(self.document, path, key=True)
            step = next((str(s) for s in reversed(path[len(inner.path) :]) if _is_step_name(s)), None)
            note = (
                f"in block {inner.word}" + (f", step {step}" if step else "") + f" ({place.source.name}:{place.line})"
            )
            for text in _texts(raw):
                if (word := parse(text).word) and word in inner.block.let:
                    note += f", from {word} = {inner.block.let[word]}"
                elif not parse(text).word:
                    note += f", from {text}"
            notes.append(note)
            path, inner, raw = inner.use, inner.caller, None
        return tuple(notes)

    # --- values ---

    def evaluate(self, raw: Any, frame: _Frame, path: Path, words: Iterable[str] = (), **extra: Value) -> Value:
        """The value of a scalar or a list as written."""
        if isinstance(raw, list):
            return [self.evaluate(item, frame, (*path, at), words, **extra) for at, item in enumerate(raw)]
        if not isinstance(raw, str):
            return raw
        try:
            return parse(raw).evaluate(frame.values | extra, frame.words | frozenset(words))
        except ExpressionError as error:
            if frame.block is not None:
                raise self.blamed(error.code, f"{error.message}, in {raw}", path, frame, raw, error.help) from None
            place = inside(self.document, path, error.offset, error.length)
            raise _Problem(Diagnostic(error.code, error.message, place, help=error.help)) from None

    def at(self, raw: Any, path: Path, index: int | None, depth: int | None, what: str) -> tuple[Any, Path]:
        """The value for one copy: `each` and `first`/`rest` are taken apart."""
        if not isinstance(raw, Each | FirstRest):
            return raw, path
        if depth is None or index is None:
            raise self.problem(
                "E0308",
                f"{what} gives a value per block, and nothing is repeated here",
                path,
                "per-block values need 'depth'",
            )
        if isinstance(raw, Each) and len(raw.each) != depth:
            raise self.problem(
                "E0307",
                f"{what} has {len(raw.each)} values for {depth} blocks",
                (*path, "each"),
                f"depth is {depth}: give one value per block",
            )
        value, below = raw.at(index)
        return value, (*path, *below)

    def condition(self, raw: Any, frame: _Frame, path: Path, **extra: Value) -> bool:
        value = self.evaluate(raw, frame, path, **extra)
        if not isinstance(value, bool):
            raise self.blamed("E0304", f"a condition is true or false, and this is {show(value)}", path, frame, raw)
        return value

    def whole(self, raw: Any, frame: _Frame, path: Path, what: str, minimum: int, **extra: Value) -> int:
        value = self.evaluate(raw, frame, path, **extra)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.blamed("E0304", f"{what} is a whole number, and this is {show(value)}", path, frame, raw)
        if value < minimum:
            code = "E0405" if what == "depth" else "E0309"
            raise self.blamed(code, f"{what} is at least {minimum}, and this is {value}", path, frame, raw)
        if value > MAX_NODES:
            raise self.blamed("E0208", f"{what} is {value:,}, more than the limit of {MAX_NODES:,}", path, frame, raw)
        return value

    # --- names ---

    def spelled(self, template: str, path: Path, frame: _Frame, **extra: Value) -> str:
        """A name with its {expressions} filled in."""
        if "{" not in template:
            return template
        parts = template_parts(template)
        for at in range(1, len(parts), 2):
            value = self.evaluate(parts[at], frame, path, **extra)
            if isinstance(value, bool) or not isinstance(value, int | str):
                raise self.blamed(
                    "E0304", f"a name holds whole numbers and words, and {{{parts[at]}}} is {show(value)}", path, frame
                )
            parts[at] = str(value)
        name = "".join(parts)
        if reason := naming.refusal(name):
            raise self.blamed("E0109", f"'{name}' cannot be a name: {reason}", path, frame)
        return name

    def explicit(self, template: str, path: Path, frame: _Frame, names: _Names, shape: Shape | None = None) -> str:
        """A name that the spec gives."""
        extra = {"in_channels": shape[0]} if shape else {}
        name = self.spelled(template, path, frame, **extra)
        self.claim(name, path, frame, names)
        names.named = path
        self.unmixed(names, path, frame)
        return name

    def automatic(
        self, word: str, path: Path, frame: _Frame, names: _Names, owns: bool = False, merge: bool = False
    ) -> str:
        """The name of a step without one: the next number in a numbered list, else its word."""
        if names.numbered:
            name = str(names.count)
            names.count += 1
            if not merge:
                names.unnamed = path
                self.unmixed(names, path, frame)
        else:
            name, again = word, 0
            while name in names.taken and not owns:
                again += 1
                name = f"{word}_{again}"
        self.claim(name, path, frame, names)
        return name

    def claim(self, name: str, path: Path, frame: _Frame, names: _Names) -> None:
        if name in names.taken:
            other = locate(self.document, names.taken[name], key=True)
            where = (
                f"the other is on line {other.line}"
                if other.source == self.document.place.source
                else f"the other is {other.source.name}:{other.line}"
            )
            raise self.blamed(
                "E0406",
                f"two steps are called '{name}' in one scope; {where}",
                path,
                frame,
                help="give one of them another name",
            )
        names.taken[name] = path

    def unmixed(self, names: _Names, path: Path, frame: _Frame) -> None:
        if names.numbered and names.named and names.unnamed:
            raise self.blamed(
                "E0407",
                "this list mixes steps with names and steps that are numbered",
                path,
                frame,
                help="name all of its steps, or none: a step added later would shift the numbers",
            )

    # --- steps ---

    def steps(
        self, steps: Sequence[Any], path: Path, frame: _Frame, shape: Shape, names: _Names
    ) -> tuple[list[Node], Shape]:
        nodes: list[Node] = []
        for at, step in enumerate(steps):
            new, shape = self.step(step, (*path, at), frame, shape, names)
            nodes += new
        return nodes, shape

    def step(
        self, step: Any, path: Path, frame: _Frame, shape: Shape, names: _Names, name: str | None = None
    ) -> tuple[list[Node], Shape]:
        """The nodes of one step and the shape after it; `name` is the name it was given, already claimed."""
        match step:
            case str():
                if step in ops.WORDS:
                    return self.op(step, {}, path, frame, shape, names, name)
                return self.use(Use(block=step), path, frame, shape, names, name)
            case list():
                if name is None:
                    return self.steps(step, path, frame, shape, names)
                return self.scope(step, path, frame, shape, name, numbered=True)
            case NamedStep():
                inner = (*path, step.name)
                given = step.step
                condition = given.when if isinstance(given, OpStep | Use) else None
                if (
                    condition is not None
                    and isinstance(given, OpStep)
                    and not self.included(given, inner, frame, shape)
                ):
                    return [], shape
                if isinstance(given, Use) and given.depth is None and not self.included(given, inner, frame, shape):
                    return [], shape
                claimed = self.explicit(step.name, inner, frame, names, shape)
                return self.step(given, inner, frame, shape, names, claimed)
            case OpStep():
                inner = (*path, step.word)
                if name is None and not self.included(step, path, frame, shape):
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

    def included(self, step: OpStep | Use, path: Path, frame: _Frame, shape: Shape) -> bool:
        """Whether the `when` of a step holds; a step without one is always there."""
        if step.when is None:
            return True
        where = (*path, step.word, "when") if isinstance(step, OpStep) else (*path, "when")
        return self.condition(step.when, frame, where, in_channels=shape[0])

    def scope(
        self,
        steps: list[Any],
        path: Path,
        frame: _Frame,
        shape: Shape,
        name: str,
        numbered: bool = False,
        at: Any = None,
    ) -> tuple[list[Node], Shape]:
        """A named group: a numbered list, or a scope around one merge."""
        names = _Names(numbered)
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

    def grow(self, path: Path, frame: _Frame) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self.blamed("E0208", f"the network has more than {MAX_NODES:,} nodes", path, frame)

    # --- ops ---

    def op(
        self,
        word: str,
        given: Mapping[str, Any],
        path: Path,
        frame: _Frame,
        shape: Shape,
        names: _Names,
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
            value = self.evaluate(raw, scope, where, facts.words, in_channels=shape[0])
            values[attribute] = self.typed(value, facts, f"{subject}.{attribute}", where, scope, raw)
        try:
            made = kind(**values)
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

    def misfit(
        self,
        error: ShapeError,
        word: str,
        subject: str,
        given: Mapping[str, Any],
        path: Path,
        frame: _Frame,
        shape: Shape,
    ) -> _Problem:
        raw = given.get(error.attribute) if error.attribute else None
        if raw is None and error.attribute and error.attribute in self.spec.defaults.get(word, {}):
            raise self.problem(
                error.code, f"{subject} {error.message}", ("defaults", word, error.attribute), error.help
            )
        where = (*path, error.attribute) if error.attribute in given else path
        help = error.help
        if error.code == "E0203" and error.attribute == "channels":
            help = self.divisible(word, given, frame, shape) or help
        by_shape = error.code != "E0203" or error.attribute != "channels"
        return self.blamed(
            error.code, f"{subject} {error.message}", where, frame, raw, help, by_shape and error.code != "E0205"
        )

    def divisible(self, word: str, given: Mapping[str, Any], frame: _Frame, shape: Shape) -> str | None:
        """`the nearest widths that divide are 320 and 352`: the user's own argument, changed until the groups fit."""
        found = next(
            ((name, frame.given[name]) for name in self.roots(given.get("channels"), frame) if name in frame.given),
            None,
        )
        if found is None:
            return None
        name, value = found[0], frame.values[found[0]]
        if isinstance(value, bool) or not isinstance(value, int):
            return None

        def fits(candidate: int) -> bool:
            values = frame.values | {name: candidate, "in_channels": shape[0]}
            try:
                for let, raw in (frame.block.let if frame.block else {}).items():
                    values[let] = parse(raw).evaluate(values, frame.words) if isinstance(raw, str) else raw
                channels, groups = (
                    parse(raw).evaluate(values, frame.words) if isinstance(raw, str) else raw
                    for raw in (given["channels"], given.get("groups", 1))
                )
                return isinstance(channels, int) and isinstance(groups, int) and channels > 0 and channels % groups == 0
            except ExpressionError:
                return False

        lower = next((n for n in range(value - 1, max(value - 1024, 0), -1) if fits(n)), None)
        upper = next((n for n in range(value + 1, value + 1024) if fits(n)), None)
        near = [str(n) for n in (lower, upper) if n is not None]
        verb = "are" if len(near) > 1 else "is"
        return (
            f"the nearest {name}{'s' if len(near) > 1 else ''} that divide{'' if len(near) > 1 else 's'} {verb} {' and '.join(near)}"
            if near
            else None
        )

    def roots(self, raw: Any, frame: _Frame) -> Iterable[str]:
        """The parameters of the block that an expression depends on, through lets."""
        for text in _texts(raw):
            for name in parse(text).names:
                if frame.block is not None and name in frame.block.let:
                    yield from self.roots(frame.block.let[name], frame)
                else:
                    yield name

    def typed(self, value: Value, facts: Attribute, what: str, path: Path, frame: _Frame, raw: Any) -> Value:
        """An evaluated value as the op wants it. Raises a located problem if it is of another type or out of range."""

        def refuse(code: str, message: str, help: str | None = None) -> _Problem:
            derived = f" (from {raw})" if isinstance(raw, str) and parse(raw).word != value else ""
            return self.blamed(code, f"{what} is {show(value)}{derived}: {message}", path, frame, raw, help)

        if isinstance(value, str):
            if value in facts.words:
                return value
            wanted = one_of(facts.words) if facts.words else f"{_TYPE_NAMES[facts.type]}, not a word"
            raise refuse("E0305", f"it must be {wanted}", nearest(value, facts.words))
        if facts.type == "size":
            pair = value if isinstance(value, list) else [value, value]
            if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) for n in pair):
                raise refuse("E0304", "it must be a whole number or [height, width]")
            return tuple(self.in_range(n, facts, refuse) for n in pair)
        if isinstance(value, list):
            raise refuse(
                "E0306",
                f"it must be {_TYPE_NAMES[facts.type]}",
                "one value per block is written {each: [...]}, and needs 'depth'",
            )
        if facts.type == "bool":
            if not isinstance(value, bool):
                raise refuse("E0304", "it must be true or false")
            return value
        if isinstance(value, bool) or facts.type == "word":
            raise refuse(
                "E0304", f"it must be {one_of(facts.words) if facts.type == 'word' else _TYPE_NAMES[facts.type]}"
            )
        if facts.type == "int" and not isinstance(value, int):
            raise refuse(
                "E0304",
                "it must be a whole number",
                "use // or floor() where the paper rounds down" if "/" in str(raw) else None,
            )
        return self.in_range(value if facts.type == "int" else float(value), facts, refuse)

    def in_range(self, value: Value, facts: Attribute, refuse: Any) -> Value:
        if facts.minimum is not None and value < facts.minimum:
            raise refuse("E0309", f"it must be at least {facts.minimum:g}")
        if facts.maximum is not None and value > facts.maximum:
            raise refuse("E0309", f"it must be at most {facts.maximum:g}")
        if abs(value) > 1 << 24:
            raise refuse("E0309", f"it must be at most {1 << 24:,}")
        return value

    # --- merges ---

    def residual(
        self, step: ResidualStep, path: Path, frame: _Frame, shape: Shape, names: _Names
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

    def is_none(self, shortcut: Any, frame: _Frame) -> bool:
        """Whether a shortcut is the word `none`: written there, or the value of a parameter."""
        word = shortcut.block if isinstance(shortcut, Use) else shortcut if isinstance(shortcut, str) else None
        return word is not None and frame.values.get(word, word) == "none"

    def parallel(
        self, step: ParallelStep, path: Path, frame: _Frame, shape: Shape, names: _Names
    ) -> tuple[list[Node], Shape]:
        parts = step.parallel
        branches = []
        for at, branch in enumerate(parts.branches or ()):
            nodes, output = self.step(branch, (*path, "branches", at), frame, shape, names)
            branches.append(Series(tuple(nodes), shape, output))
        if parts.copies is not None:
            copies = self.whole(parts.copies, frame, (*path, "copies"), "copies", 1, in_channels=shape[0])
            for copy in range(copies):
                name = str(copy)
                self.claim(name, (*path, "copies"), frame, names)
                inner = frame.with_values(copy=copy)
                nodes, output = self.step(parts.branch, (*path, "branch"), inner, shape, _Names())
                named = Series(tuple(nodes), shape, output, name, origin=self.origin((*path, "branch")))
                branches.append(Series((named,), shape, output))
        return self.merged(branches, parts.merge, path, frame, shape, names)

    def merged(
        self,
        branches: list[Series],
        merge: tree.Merge,
        path: Path,
        frame: _Frame,
        shape: Shape,
        names: _Names,
        residual: bool = False,
    ) -> tuple[list[Node], Shape]:
        self.grow(path, frame)
        try:
            output = merge_shape(merge, [branch.output for branch in branches])
        except ShapeError as error:
            message, help = error.message, error.help
            if residual and merge == "add":
                made, kept = branches[0].output, branches[-1].output
                message = f"the branch gives {list(made)} and its shortcut {list(kept)}, so they cannot be added"
                help = self.fitting(made, shape)
            raise self.blamed(
                error.code, message, path, frame, "stride" if "stride" in frame.given else "width", help, True
            ) from None
        name = self.automatic(merge, path, frame, names, merge=True)
        return [tree.Parallel(name, tuple(branches), merge, shape, output, residual, None, self.origin(path))], output

    def fitting(self, made: Shape, shape: Shape) -> str | None:
        """The shortcut of the library that would fit."""
        if len(made) != 3 or len(shape) != 3:
            return None
        if made[1:] == shape[1:]:
            return f"'shortcut: projection' makes {made[0]} channels of {shape[0]}"
        return "'shortcut: projection' with the stride of the branch fits"

    def side(
        self, step: SideStep, path: Path, frame: _Frame, shape: Shape, names: _Names, name: str | None
    ) -> tuple[list[Node], Shape]:
        parts = step.side
        where = (*path, "body")
        if name is not None:
            nodes, output = self.step(parts.body, where, frame, shape, names, name)
        else:
            nodes, output = self.step(parts.body, where, frame, shape, names.unnumbered())
        child = Series(tuple(nodes), shape, output)
        return [tree.Side(child, parts.output, parts.mode, shape, self.origin(path))], shape

    # --- blocks ---

    def use(
        self, use: Use, path: Path, frame: _Frame, shape: Shape, names: _Names, name: str | None
    ) -> tuple[list[Node], Shape]:
        word = use.block or self.spec.block
        assert word is not None
        definition = frame.block.parameters.get(word) if frame.block is not None else None
        if definition is not None:
            word = frame.values[word]
        if word == "none" or word not in self.spec.blocks:
            message = (
                "'none' has a meaning only as the shortcut of a residual"
                if word == "none"
                else f"there is no block '{word}'"
            )
            raise self.blamed("E0401", message, path, frame, use.block)
        block = self.spec.blocks[word]
        if frame.nesting >= MAX_CALLS:
            raise self.blamed(
                "E0408", f"blocks are nested more than {MAX_CALLS} deep; '{word}' seems to contain itself", path, frame
            )
        self.used.add(word)
        if name is None and use.name is not None:
            if use.depth is None and not self.included(use, path, frame, shape):
                return [], shape
            name = self.explicit(use.name, (*path, "name"), frame, names, shape)
        if use.depth is None:
            if not self.included(use, path, frame, shape):
                return [], shape
            return self.single(use, word, block, path, frame, shape, names, name)
        minimum = 1 if frame.block is None else 0
        depth = self.whole(use.depth, frame, (*path, "depth"), "depth", minimum, in_channels=shape[0])
        return self.copies(use, word, block, depth, path, frame, shape, names, name)

    def single(
        self,
        use: Use,
        word: str,
        block: Block,
        path: Path,
        frame: _Frame,
        shape: Shape,
        names: _Names,
        name: str | None,
    ) -> tuple[list[Node], Shape]:
        if name is None and not block.inline:
            if not names.numbered:
                raise self.blamed(
                    "E0404",
                    f"block '{word}' needs a name here",
                    path,
                    frame,
                    help=f"write '- name: {{block: {word}}}', or mark the block 'inline: true' to make it a macro",
                )
            name = self.automatic(word, path, frame, names)
        inner = self.bind(use, word, block, path, frame, shape, None, None)
        scope = names if name is None else _Names(numbered=block.inline)
        nodes, output = self.body(block, inner, shape, scope, shared=name is not None)
        when = None if use.when is None else str(use.when)
        return [self.series(nodes, shape, output, name, inner, path, when)], output

    def copies(
        self,
        use: Use,
        word: str,
        block: Block,
        depth: int,
        path: Path,
        frame: _Frame,
        shape: Shape,
        names: _Names,
        name: str | None,
    ) -> tuple[list[Node], Shape]:
        template, where = (
            (use.members, (*path, "members")) if use.members else (block.members, ("blocks", word, "members"))
        )
        spliced = name is None and block.inline and use.members is None
        if name is None and not spliced and template is None and not names.numbered:
            raise self.blamed(
                "E0404",
                f"the repeated block '{word}' needs a name here",
                path,
                frame,
                help=f"write '- name: {{block: {word}, depth: ...}}'",
            )
        scope = names if name is None else _Names()
        first_shape, members = shape, []
        for index in range(depth):
            counted = frame.with_values(index=index, depth=depth)
            if use.when is not None and not self.condition(use.when, counted, (*path, "when"), in_channels=shape[0]):
                continue
            inner = self.bind(use, word, block, path, counted, shape, index, depth)
            member = None
            if not spliced:
                if name is None and names.numbered and template is None:
                    member = self.automatic(word, path, frame, names)
                else:
                    named_in = inner if template is block.members else counted
                    member = self.spelled(template or "{index}", where, named_in, in_channels=shape[0])
                    self.claim(member, where, frame, scope)
            own = scope if member is None else _Names(numbered=block.inline)
            nodes, output = self.body(block, inner, shape, own, shared=member is not None)
            members.append(self.series(nodes, shape, output, member, inner, path, None))
            shape = output
        if name is None:
            return list(members), shape
        return [Series(tuple(members), first_shape, shape, name, origin=self.origin(path))], shape

    def series(
        self,
        nodes: Sequence[Node],
        shape: Shape,
        output: Shape,
        name: str | None,
        inner: _Frame,
        path: Path,
        when: str | None,
    ) -> Series:
        assert inner.word is not None
        assert inner.block is not None
        if path not in self.hints:
            self.hints[path] = {
                key: given.raw for key, given in inner.given.items() if isinstance(given.raw, str)
            } or NO_HINTS
        arguments = {key: inner.values[key] for key in inner.block.parameters}
        defaults = {
            key: d.default
            for key, d in inner.block.parameters.items()
            if not isinstance(d.default, str | None) or d.default in (d.one_of or ())
        }
        call = Call(
            inner.word, arguments, defaults, self.hints[path], inner.values.get("index"), inner.values.get("depth")
        )
        own_when = None if inner.block.when is None else str(inner.block.when)
        return Series(tuple(nodes), shape, output, name, call, self.origin(path), when or own_when)

    def body(
        self, block: Block, frame: _Frame, shape: Shape, names: _Names, shared: bool
    ) -> tuple[Sequence[Node], Shape]:
        """The nodes of a block for one set of arguments. Copies with equal arguments in scopes of their own are the same
        nodes: the tree is immutable, and names are relative."""
        key = None
        if shared:
            key = (
                frame.word,
                names.numbered,
                shape,
                tuple((k, _frozen(v)) for k, v in frame.values.items() if k not in _VARYING or self.varies(frame.word)),
            )
            if key in self.memo:
                return self.memo[key]
        if block.when is not None and not self.condition(
            block.when, frame, (*frame.path, "when"), in_channels=shape[0]
        ):
            result: tuple[Sequence[Node], Shape] = ((), shape)
        else:
            nodes, output = self.steps(block.body, (*frame.path, "body"), frame, shape, names)
            result = (tuple(nodes), output)
        if key is not None:
            self.memo[key] = (tuple(result[0]), result[1])
        return result

    def varies(self, word: str | None) -> bool:
        """Whether the definition of a block mentions its place among the copies."""
        if word not in self.varying:
            text = repr(self.spec.blocks[word]) if word else ""
            self.varying[word] = any(name in text for name in _VARYING)
        return self.varying[word]

    def bind(
        self,
        use: Use,
        word: str,
        block: Block,
        path: Path,
        frame: _Frame,
        shape: Shape,
        index: int | None,
        depth: int | None,
    ) -> _Frame:
        """The frame of one use: every parameter bound (row > defaults > block), then every let."""
        words = {w for definition in block.parameters.values() for w in definition.one_of or ()}
        if any(definition.type == "block" for definition in block.parameters.values()):
            words |= self.block_words
        place = {} if index is None else {"index": index, "depth": depth}
        inner = _Frame(
            {"in_channels": shape[0], **place},
            ("blocks", word),
            path,
            frozenset(words),
            block,
            word,
            frame,
            nesting=frame.nesting + 1,
        )
        for unknown in use.arguments.keys() - block.parameters.keys():
            help = nearest(unknown, block.parameters) or f"{word} takes {one_of(sorted(block.parameters) or ['none'])}"
            raise self.blamed("E0402", f"{word} has no argument '{unknown}'", (*path, unknown), frame, help=help)
        defaults = self.spec.defaults.get(word, {})
        for name, definition in block.parameters.items():
            if name in use.arguments:
                given = _Given((*path, name), frame, use.arguments[name])
            elif name in defaults:
                given = _Given(("defaults", word, name), self.top, defaults[name])
            elif definition.default is None:
                raise self.blamed("E0403", f"block '{word}' needs {name}", path, frame)
            else:
                given = None
            per_block = given is not None and isinstance(given.raw, Each | FirstRest)
            if given is not None and definition.only == "first" and index and not per_block:
                given = None
            takes = {*(definition.one_of or ()), *(self.block_words if definition.type == "block" else ())}
            if given is None:
                where: Path = (*inner.path, "parameters", name)
                value = self.evaluate(definition.default, inner, where, takes)
                self.check_argument(value, definition, name, where, inner, definition.default)
            else:
                raw, where = self.at(given.raw, given.path, index, depth, f"{word}.{name}")
                given = _Given(where, given.frame, raw)
                value = self.evaluate(raw, given.frame, where, takes, in_channels=shape[0], **place)
                self.check_argument(value, definition, name, where, given.frame, raw)
                inner.given[name] = given
            inner.values[name] = value
        for name, raw in block.let.items():
            inner.values[name] = self.evaluate(raw, inner, (*inner.path, "let", name))
        return inner

    def check_argument(
        self, value: Value, definition: ParameterDefinition, name: str, path: Path, frame: _Frame, raw: Any
    ) -> None:
        """Whether a value is of the type of a parameter; a default that is an expression allows any number."""

        def refuse(code: str, message: str, help: str | None = None) -> _Problem:
            derived = f" (from {raw})" if isinstance(raw, str) and raw != show(value) else ""
            return self.blamed(code, f"{name} is {show(value)}{derived}: {message}", path, frame, raw, help)

        allowed = definition.one_of or ()
        kind = definition.type or _type_of(definition.default)
        if isinstance(value, str):
            if value in allowed or (kind == "block" and value in self.block_words):
                return
            if allowed:
                raise refuse("E0305", f"it must be {one_of(allowed)}", nearest(value, allowed))
            raise refuse("E0305", f"it must be {_TYPE_NAMES[kind]}")
        if allowed and definition.type is None:
            raise refuse("E0305", f"it must be {one_of(allowed)}")
        if isinstance(value, list) and kind not in ("list", "size"):
            raise refuse(
                "E0306",
                f"it must be {_TYPE_NAMES[kind]}",
                "one value per block is written {each: [...]}, and needs 'depth'",
            )
        fits = {
            "int": isinstance(value, int) and not isinstance(value, bool),
            "real": isinstance(value, int | float) and not isinstance(value, bool),
            "number": isinstance(value, int | float) and not isinstance(value, bool),
            "bool": isinstance(value, bool),
            "list": isinstance(value, list),
            "block": False,
            "any": True,
            "size": isinstance(value, list | int) and not isinstance(value, bool),
        }[kind]
        if not fits:
            raise refuse("E0304", f"it must be {_TYPE_NAMES[kind]}")


_VARYING = ("index", "depth", "copy")
_TYPE_NAMES = {
    "int": "a whole number", "real": "a number", "number": "a number", "bool": "true or false", "list": "a list", "any": "a value",
    "block": "the word of a block", "size": "a whole number or [height, width]", "word": "a word",
}  # fmt: skip


def _type_of(default: Any) -> str:
    """The type that a parameter's default gives it."""
    if isinstance(default, bool):
        return "bool"
    if isinstance(default, int | float):
        return "int" if isinstance(default, int) else "real"
    return "list" if isinstance(default, list) else "any"


def _texts(raw: Any) -> Iterable[str]:
    if isinstance(raw, str):
        yield raw
    elif isinstance(raw, list):
        for item in raw:
            yield from _texts(item)


def _frozen(value: Value) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else (type(value), value)


def _is_step_name(step: str | int) -> bool:
    grammar = {
        "body",
        "branch",
        "branches",
        "shortcut",
        "gate",
        "then",
        "else",
        "residual",
        "parallel",
        "side",
        "parameters",
        "default",
        "when",
        "let",
        "each",
    }
    return (
        isinstance(step, str)
        and step not in grammar
        and step not in ops.WORDS
        and not any(step in ops.attributes(word) for word in ops.WORDS)
    )


def _because(node: Node, when: str) -> Node:
    return replace(node, when=node.when or when) if isinstance(node, Op | Series) else node


def _bounded(series: Series) -> bool:
    """Whether the last thing that a series does is an activation between fixed bounds."""
    for node in reversed(series.children):
        match node:
            case Op(kind=ops.Act(kind=kind)):
                return kind in ops.BOUNDED
            case Series(children=()) | tree.Side():
                continue
            case Series():
                return _bounded(node)
            case _:
                return False
    return False

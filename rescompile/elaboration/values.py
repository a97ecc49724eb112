"""Evaluates what a spec wrote, and holds the value to the type that an op or a parameter wants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rescompile.diagnostics.errors import Diagnostic, nearest, one_of
from rescompile.elaboration.frames import Blame, Frame, Path, Problem, Value
from rescompile.ir.expressions import ExpressionError, parse, show
from rescompile.ir.names import WHERE_KNOWN
from rescompile.ir.ops import Attribute, Shape
from rescompile.lang.spec.blocks import ParameterDefinition
from rescompile.lang.spec.spec import Spec
from rescompile.lang.spec.values import BLOCKLESS, TYPE_NAMES, Each, FirstRest
from rescompile.lang.yaml_reader import inside

#: Neither a depth nor a number of copies, nor all nodes of a network together, may pass this.
MAX_NODES = 300_000
#: Entries of one list, those of the lists in it included: lists of lists would double with each `let`.
MAX_ENTRIES = 4096


class Values(Blame):
    """Values of scalars, lists and per-block forms, typed."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.block_words = frozenset({*spec.blocks, *BLOCKLESS})

    def evaluate(self, raw: Any, frame: Frame, path: Path, words: Iterable[str] = (), **extra: Value) -> Value:
        """The value of a scalar or a list as written."""
        if isinstance(raw, list):
            values = [self.evaluate(item, frame, (*path, at), words, **extra) for at, item in enumerate(raw)]
            if _entries(values) > MAX_ENTRIES:
                raise self.blamed(
                    "E0208", f"a list has at most {MAX_ENTRIES:,} entries, those of lists in it included", path, frame
                )
            return values
        if not isinstance(raw, str):
            return raw
        try:
            return parse(raw).evaluate(frame.values | extra, frame.words | frozenset(words))
        except ExpressionError as error:
            name = raw[error.offset : error.offset + error.length]
            help = WHERE_KNOWN.get(name) if error.code == "E0302" else error.help
            if frame.block is not None:
                raise self.blamed(error.code, f"{error.message}, in {raw}", path, frame, raw, help) from None
            place = inside(self.document, path, error.offset, error.length)
            raise Problem(Diagnostic(error.code, error.message, place, help=help)) from None

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

    def condition(self, raw: Any, frame: Frame, path: Path, **extra: Value) -> bool:
        value = self.evaluate(raw, frame, path, **extra)
        if not isinstance(value, bool):
            raise self.blamed("E0304", f"a condition is true or false, and this is {show(value)}", path, frame, raw)
        return value

    def whole(self, raw: Any, frame: Frame, path: Path, what: str, minimum: int, **extra: Value) -> int:
        value = self.evaluate(raw, frame, path, **extra)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.blamed("E0304", f"{what} is a whole number, and this is {show(value)}", path, frame, raw)
        if value < minimum:
            code = "E0405" if what == "depth" else "E0309"
            raise self.blamed(code, f"{what} is at least {minimum}, and this is {value}", path, frame, raw)
        if value > MAX_NODES:
            raise self.blamed("E0208", f"{what} is {value:,}, more than the limit of {MAX_NODES:,}", path, frame, raw)
        return value

    def typed(
        self, value: Value, facts: Attribute, what: str, path: Path, frame: Frame, raw: Any, fit: str | None = None
    ) -> Value:
        """An evaluated value as the op wants it. Raises a located problem if it is of another type or out of range;
        `fit` is the help for a count that is not whole."""

        def refuse(code: str, message: str, help: str | None = None) -> Problem:
            derived = f" (from {raw})" if isinstance(raw, str) and parse(raw).word != value else ""
            return self.blamed(code, f"{what} is {show(value)}{derived}: {message}", path, frame, raw, help)

        if isinstance(value, str):
            if value in facts.words:
                return value
            wanted = one_of(facts.words) if facts.words else f"{TYPE_NAMES[facts.type]}, not a word"
            raise refuse("E0305", f"it must be {wanted}", nearest(value, facts.words))
        if facts.type == "size":
            pair = value if isinstance(value, list) else [value, value]
            if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) for n in pair):
                raise refuse("E0304", "it must be a whole number or [height, width]")
            return tuple(self.in_range(n, facts, refuse) for n in pair)
        if isinstance(value, list):
            raise refuse(
                "E0306",
                f"it must be {TYPE_NAMES[facts.type]}",
                "one value per block is written {each: [...]}, and needs 'depth'",
            )
        if facts.type == "bool":
            if not isinstance(value, bool):
                raise refuse("E0304", "it must be true or false")
            return value
        if isinstance(value, bool) or facts.type == "word":
            raise refuse(
                "E0304", f"it must be {one_of(facts.words) if facts.type == 'word' else TYPE_NAMES[facts.type]}"
            )
        if facts.type == "int" and not isinstance(value, int):
            divided = value.is_integer() and not isinstance(raw, float)
            rest = ", and a division left a rest" if divided else ""
            floor = "use // or floor() where the paper rounds down" if "/" in str(raw) else None
            raise refuse("E0304", f"it must be a whole number{rest}", fit or floor)
        return self.in_range(value if facts.type == "int" else float(value), facts, refuse)

    def in_range(self, value: Value, facts: Attribute, refuse: Any) -> Value:
        if facts.minimum is not None and value < facts.minimum:
            raise refuse("E0309", f"it must be at least {facts.minimum:g}")
        if facts.maximum is not None and value > facts.maximum:
            raise refuse("E0309", f"it must be at most {facts.maximum:g}")
        if abs(value) > 1 << 24:
            raise refuse("E0309", f"it must be at most {1 << 24:,}")
        return value

    def check_argument(
        self, value: Value, definition: ParameterDefinition, name: str, path: Path, frame: Frame, raw: Any
    ) -> None:
        """Whether a value is of the type of a parameter; a default that is an expression allows any number."""
        if definition.fits(value, self.block_words):
            return
        derived = f" (from {raw})" if isinstance(raw, str) and raw != show(value) else ""
        message = f"{name} is {show(value)}{derived}: it must be {definition.wanted or 'a number'}"
        code, help = "E0304", None
        if isinstance(value, str):
            code, help = "E0305", nearest(value, definition.one_of or ())
        elif isinstance(value, list) and definition.kind != "size":
            code, help = "E0306", "one value per block is written {each: [...]}, and needs 'depth'"
        raise self.blamed(code, message, path, frame, raw, help)

    def nearest_fit(self, given: Mapping[str, Any], frame: Frame, shape: Shape) -> str | None:
        """`the nearest widths that fit are 320 and 336`: the user's own argument, changed until channels are whole and
        groups divide them."""
        name = next((name for name in self.roots(given.get("channels"), frame) if name in frame.given), None)
        value = frame.values[name] if name is not None else None
        if name is None or isinstance(value, bool) or not isinstance(value, int):
            return None

        def fits(candidate: int) -> bool:
            values = frame.values | {name: candidate, "in_channels": shape[0]}

            def number(raw: Any) -> Value:
                return parse(raw).evaluate(values, frame.words) if isinstance(raw, str) else raw

            try:
                for let, raw in (frame.block.let if frame.block else {}).items():
                    values[let] = number(raw)
                channels, groups = number(given["channels"]), number(given.get("groups", 1))
                return isinstance(channels, int) and channels > 0 and channels % groups == 0
            except (ExpressionError, TypeError, ZeroDivisionError):
                return False

        lower = next((n for n in range(value - 1, max(value - 1024, 0), -1) if fits(n)), None)
        upper = next((n for n in range(value + 1, value + 1024) if fits(n)), None)
        near = [str(n) for n in (lower, upper) if n is not None]
        if len(near) == 2:
            return f"the nearest {name}s that fit are {near[0]} and {near[1]}"
        return f"the nearest {name} that fits is {near[0]}" if near else None


def _entries(values: list[Value]) -> int:
    return sum(_entries(value) if isinstance(value, list) else 1 for value in values)

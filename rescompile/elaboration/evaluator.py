"""Evaluates the values in a spec, and checks each against the type that an op or a parameter requires."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from rescompile.diagnostics.errors import Diagnostic, nearest, one_of
from rescompile.elaboration.reporter import Reporter
from rescompile.elaboration.site import Path, Problem, Site, Value
from rescompile.ir.expressions import ExpressionError, parse, show
from rescompile.ir.names import SIZES, WHERE_KNOWN
from rescompile.ir.ops import AXIS_NAMES, Attribute, Shape, rank, similar
from rescompile.lang.spec.blocks import ParameterDefinition
from rescompile.lang.spec.values import TYPES, Each, FirstRest
from rescompile.lang.yaml_reader import inside

#: The maximum of a depth, of a number of copies, and of the nodes of a whole network.
MAX_NODES = 300_000
#: The maximum of ops, merges and copies that are elaborated one by one.
MAX_BUILT = 8_000
#: The maximum of entries in one list, including those of nested lists, which would double with each `let`.
MAX_ENTRIES = 4096
#: The maximum of an attribute's value, so that every count of parameters and positions stays exact.
MAX_VALUE = 1 << 24
#: The types that accept a float with an integer value.
WHOLE = ("int", "size")
_PER_BLOCK = "for one value per block, write {each: [...]} in a row with 'depth'"


class Evaluator:
    """Evaluates scalars, lists and per-block forms, and checks their types."""

    def __init__(self, reporter: Reporter, block_words: frozenset[str]) -> None:
        self.report, self.block_words = reporter, block_words
        self.sizes: dict[str, Path] = {}  # of feature maps that a value depends on, each with its first mention

    def evaluate(self, raw: Any, site: Site, words: Iterable[str] = ()) -> Value:
        """Return the value of a scalar or a list as written; a name in `words` evaluates to itself."""
        if isinstance(raw, list):
            values = [self.evaluate(item, site.at(at), words) for at, item in enumerate(raw)]
            if _entries(values) > MAX_ENTRIES:
                message = f"a list can have at most {MAX_ENTRIES:,} entries, nested lists included"
                raise self.report.blamed("E0208", message, site)
            return values
        if not isinstance(raw, str):
            return raw
        frame = site.frame
        scope, channels = frame.values, site.shape[0]
        if scope.get("in_channels") != channels:
            scope = scope | {"in_channels": channels}
        known = frame.words | frozenset(words) if words else frame.words
        if mentioned := [name for name in _sizes_in(raw) if name not in scope and name not in known]:
            scope = scope | self._size(mentioned, site)
        try:
            return parse(raw).evaluate(scope, known)
        except ExpressionError as error:
            name = raw[error.offset : error.offset + error.length]
            help = WHERE_KNOWN.get(name) if error.code == "E0302" else error.help
            if frame.block is not None:
                raise self.report.blamed(error.code, f"{error.message} (in {raw})", site, help, raw) from None
            place = inside(self.report.document, site.path, error.offset, error.length)
            raise Problem(Diagnostic(error.code, error.message, place, help=help)) from None

    def _size(self, mentioned: Sequence[str], site: Site) -> dict[str, int]:
        """Return the mentioned sizes of the feature map at a site. Raises a problem if it has no such axis."""
        known = sizes_of(site.shape)
        for name in mentioned:
            if name not in known:
                message = f"'{name}' is not defined for a value of shape {list(site.shape)}"
                help = f"sizes defined here: {', '.join(known)}" if known else "use it before 'flatten'"
                raise self.report.blamed("E0303", message, site, help)
            self.sizes.setdefault(name, site.path)
        return {name: known[name] for name in mentioned}

    def for_copy(self, raw: Any, site: Site, copy: Mapping[str, int], what: str) -> tuple[Any, Site]:
        """Return the value for one copy of a block and where it is written: `each` and `first`/`rest` are
        resolved."""
        if not isinstance(raw, Each | FirstRest):
            return raw, site
        if not copy:
            message = f"{what} has one value per block, but nothing is repeated here"
            raise self.report.problem("E0308", message, site.path, "per-block values need 'depth'")
        depth = copy["depth"]
        if isinstance(raw, Each) and len(raw.each) != depth:
            message = f"{what} has {len(raw.each)} values for {depth} blocks"
            help = f"depth is {depth}: give one value per block"
            raise self.report.problem("E0307", message, (*site.path, "each"), help)
        value, below = raw.at(copy["index"])
        return value, site.at(*below)

    def condition(self, raw: Any, site: Site) -> bool:
        """Return the value of a condition."""
        value = self.evaluate(raw, site)
        if not isinstance(value, bool):
            message = f"a condition must be true or false, got {show(value)}"
            raise self.report.blamed("E0304", message, site, raw=raw)
        return value

    def count(self, raw: Any, site: Site, what: str, minimum: int) -> int:
        """Return the value of a depth or a number of copies."""
        value = whole(self.evaluate(raw, site))
        code = "E0304"
        if isinstance(value, bool) or not isinstance(value, int):
            message = f"{what} must be an integer, got {show(value)}"
        elif value < minimum:
            code = "E0405" if what == "depth" else "E0309"
            message = f"{what} must be at least {minimum}, got {value}"
        elif value > MAX_NODES:
            code, message = "E0208", f"{what} is {value:,}, more than the limit of {MAX_NODES:,}"
        else:
            return value
        raise self.report.blamed(code, message, site, raw=raw)

    def typed(
        self,
        value: Value,
        facts: Attribute,
        what: str,
        site: Site,
        raw: Any,
        shape: Shape,
        fit: Callable[[], str | None] = lambda: None,
    ) -> Value:
        """Return an evaluated value as an op with an input of this shape requires it. Raises a located problem if it is
        of another type or out of range; `fit` returns the help for a count that is not an integer."""

        if (
            type(value) is int
            and facts.type == "int"
            and (facts.minimum or 0) <= value <= min(facts.maximum or MAX_VALUE, MAX_VALUE)
        ):
            return value  # most values

        def refuse(code: str, expected: str, help: str | None = None) -> Problem:
            return self.report.blamed(code, _mismatch(what, value, raw, expected), site, help, raw)

        def in_range(number: float) -> float:
            if facts.minimum is not None and number < facts.minimum:
                raise refuse("E0309", f"at least {facts.minimum:g}")
            if facts.maximum is not None and number > facts.maximum:
                raise refuse("E0309", f"at most {facts.maximum:g}")
            if abs(number) > MAX_VALUE:
                raise refuse("E0309", f"at most {MAX_VALUE:,}")
            return number

        if facts.type in WHOLE:
            value = whole(value)
        typed, fits = TYPES.get(facts.type) or ("", lambda _: False)
        axes = AXIS_NAMES.get(len(shape) - 1, AXIS_NAMES[2])  # an op for feature maps only refuses a vector itself
        if facts.type == "size":
            typed = f"an integer or [{', '.join(axes)}]"
        expected = one_of([*facts.words, typed] if typed else facts.words)
        if isinstance(value, str):
            if value in facts.words:
                return value
            raise refuse("E0305", expected if facts.words else f"{expected}, not a name", similar(value, facts.words))
        if isinstance(value, list) and facts.type != "size":
            raise refuse("E0306", expected, _per_block(value, fits, facts.words))
        if facts.type == "int" and isinstance(value, float):
            floor = "use // or floor() where the paper rounds down" if "/" in str(raw) else None
            raise refuse("E0304", expected, fit() or floor)
        if facts.type == "size":
            each = value if isinstance(value, list) else [value] * len(axes)
            if not fits(value) or len(each) != len(axes):
                raise refuse("E0304", expected)
            return tuple(map(in_range, each))
        if not fits(value):
            raise refuse("E0304", expected)
        return value if facts.type == "bool" else in_range(float(value) if facts.type == "real" else value)

    def argument(self, value: Value, definition: ParameterDefinition, name: str, site: Site, raw: Any) -> Value:
        """Return an evaluated value as the parameter requires it. Raises a problem if it is of another type."""
        kind = definition.kind
        if kind in WHOLE:
            value = whole(value)
        implied, valid = definition.type is None, definition.fits(value, self.block_words)
        if valid and implied and kind == "size" and isinstance(value, list):
            valid = len(value) == rank(site.shape)
            value = value[0] if valid and len(set(value)) == 1 else value
        if valid:
            return value
        code, help, default = "E0304", None, definition.default
        if kind in WHOLE and implied and isinstance(value, float):
            help = f"its default {show(default)} makes it an integer; for any number write {{default: {show(default)}, type: real}}"
        if isinstance(value, str):
            code, help = "E0305", nearest(value, definition.one_of or ())
        elif isinstance(value, list) and (kind != "size" or implied):
            fits = TYPES[kind][1] if kind in TYPES else lambda _: False
            code, help = "E0306", _per_block(value, fits, definition.words(self.block_words))
        message = _mismatch(name, value, raw, definition.expected or "a number")
        raise self.report.blamed(code, message, site, help, raw)


def sizes_of(shape: Shape) -> dict[str, int]:
    """Return the sizes of a feature map by their names in expressions; none for a vector."""
    named = zip(AXIS_NAMES.get(len(shape) - 1, ()), shape[1:], strict=True)
    return {name: size for name, size in named if name in SIZES}


@lru_cache(maxsize=4096)
def _sizes_in(text: str) -> tuple[str, ...]:
    """Return the names of sizes that an expression mentions."""
    return tuple(name for name in parse(text).names if name in SIZES)


def _per_block(values: list[Value], fits: Callable[[Any], bool], words: Collection[str]) -> str | None:
    """Return the help for a list in place of one value: one per block, if each of them would be valid."""
    each_fits = all(value in words if isinstance(value, str) else fits(value) for value in values)
    return _PER_BLOCK if each_fits else None


def whole(value: Value) -> Value:
    """Return an integer in place of a float of the same value, such as the 8.0 of `16 * 0.5`; also inside a list."""
    if isinstance(value, list):
        return [whole(item) for item in value]
    exact = isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53
    return int(value) if exact else value


def _mismatch(what: str, value: Value, raw: Any, expected: str) -> str:
    """Return a message like `conv1.channels must be an integer, got 4.5 (from width / 2)`."""
    derived = f" (from {raw})" if isinstance(raw, str) and raw != show(value) else ""
    return f"{what} must be {expected}, got {show(value)}{derived}"


def _entries(values: list[Value]) -> int:
    return sum(_entries(value) if isinstance(value, list) else 1 for value in values)

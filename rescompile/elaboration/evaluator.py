"""Evaluates what a spec wrote, and checks the value against the type that an op or a parameter requires."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rescompile.diagnostics.errors import Diagnostic, nearest, one_of
from rescompile.elaboration.reporter import Reporter
from rescompile.elaboration.site import Problem, Site, Value
from rescompile.ir.expressions import ExpressionError, parse, show
from rescompile.ir.names import WHERE_KNOWN
from rescompile.ir.ops import Attribute
from rescompile.lang.spec.blocks import ParameterDefinition
from rescompile.lang.spec.values import TYPES, Each, FirstRest, as_pair
from rescompile.lang.yaml_reader import inside

#: Neither a depth nor a number of copies, nor all nodes of a network together, may pass this.
MAX_NODES = 300_000
#: Entries of one list, those of the lists in it included: lists of lists would double with each `let`.
MAX_ENTRIES = 4096
#: Values of an attribute, so that every count of parameters and positions stays exact.
MAX_VALUE = 1 << 24
_PER_BLOCK = "for one value per block, write {each: [...]} in a row with 'depth'"


class Evaluator:
    """Values of scalars, lists and per-block forms, typed."""

    def __init__(self, reporter: Reporter, block_words: frozenset[str]) -> None:
        self.report, self.block_words = reporter, block_words

    def evaluate(self, raw: Any, site: Site, words: Iterable[str] = ()) -> Value:
        """The value of a scalar or a list as written; a name in `words` evaluates to itself."""
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
        try:
            return parse(raw).evaluate(scope, frame.words | frozenset(words) if words else frame.words)
        except ExpressionError as error:
            name = raw[error.offset : error.offset + error.length]
            help = WHERE_KNOWN.get(name) if error.code == "E0302" else error.help
            if frame.block is not None:
                raise self.report.blamed(error.code, f"{error.message} (in {raw})", site, help, raw) from None
            place = inside(self.report.document, site.path, error.offset, error.length)
            raise Problem(Diagnostic(error.code, error.message, place, help=help)) from None

    def for_copy(self, raw: Any, site: Site, copy: Mapping[str, int], what: str) -> tuple[Any, Site]:
        """The value for one copy of a block and where it is written: `each` and `first`/`rest` are taken apart."""
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
        """The value of a condition."""
        value = self.evaluate(raw, site)
        if not isinstance(value, bool):
            message = f"a condition must be true or false, got {show(value)}"
            raise self.report.blamed("E0304", message, site, raw=raw)
        return value

    def count(self, raw: Any, site: Site, what: str, minimum: int) -> int:
        """The value of a depth or a number of copies."""
        value = self.evaluate(raw, site)
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
        fit: Callable[[], str | None] = lambda: None,
    ) -> Value:
        """An evaluated value as the op needs it. Raises a located problem if it is of another type or out of range;
        `fit` returns the help for a count that is not whole."""

        def refuse(code: str, expected: str, help: str | None = None, why: str = "") -> Problem:
            return self.report.blamed(code, _mismatch(what, value, raw, expected) + why, site, help, raw)

        def in_range(number: float) -> float:
            if facts.minimum is not None and number < facts.minimum:
                raise refuse("E0309", f"at least {facts.minimum:g}")
            if facts.maximum is not None and number > facts.maximum:
                raise refuse("E0309", f"at most {facts.maximum:g}")
            if abs(number) > MAX_VALUE:
                raise refuse("E0309", f"at most {MAX_VALUE:,}")
            return number

        expected, fits = TYPES.get(facts.type) or (one_of(facts.words), lambda _: False)
        if isinstance(value, str):
            if value in facts.words:
                return value
            words = one_of(facts.words) if facts.words else f"{expected}, not a name"
            raise refuse("E0305", words, nearest(value, facts.words))
        if isinstance(value, list) and facts.type != "size":
            raise refuse("E0306", expected, _PER_BLOCK)
        if facts.type == "int" and isinstance(value, float):
            why = ": a division left a remainder" if value.is_integer() and not isinstance(raw, float) else ""
            floor = "use // or floor() where the paper rounds down" if "/" in str(raw) else None
            raise refuse("E0304", expected, fit() or floor, why)
        if not fits(value):
            raise refuse("E0304", expected)
        if facts.type == "size":
            return tuple(in_range(n) for n in as_pair(value))
        return value if facts.type == "bool" else in_range(float(value) if facts.type == "real" else value)

    def check_argument(self, value: Value, definition: ParameterDefinition, name: str, site: Site, raw: Any) -> None:
        """Raise a problem where a value is not of the type of a parameter."""
        if definition.fits(value, self.block_words):
            return
        code, help = "E0304", None
        if isinstance(value, str):
            code, help = "E0305", nearest(value, definition.one_of or ())
        elif isinstance(value, list) and definition.kind != "size":
            code, help = "E0306", _PER_BLOCK
        message = _mismatch(name, value, raw, definition.expected or "a number")
        raise self.report.blamed(code, message, site, help, raw)


def _mismatch(what: str, value: Value, raw: Any, expected: str) -> str:
    """`conv1.channels must be an integer, got 4.5 (from width / 2)`."""
    derived = f" (from {raw})" if isinstance(raw, str) and raw != show(value) else ""
    return f"{what} must be {expected}, got {show(value)}{derived}"


def _entries(values: list[Value]) -> int:
    return sum(_entries(value) if isinstance(value, list) else 1 for value in values)

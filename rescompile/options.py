"""Options of passes, targets and runtimes: each is declared in a table, and one parser reads all values with the same
messages."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from rescompile.diagnostics.errors import UsageError, clipped, nearest, one_of
from rescompile.records import record

_NAMES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


@record
class Option:
    """An option: its type, default, help and valid values. Given without a value, one with `choices` takes the first of
    them. `metavar` and `flag` are for the command line; the flag defaults to `--name`."""

    name: str
    type: type[Any]
    default: Any
    help: str
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    flag: str | None = None

    @property
    def values(self) -> str:
        """The valid values in words, such as `an integer from 1 to 65535`."""
        if self.choices:
            return one_of(self.choices)
        bounds = [f" {word} {n}" for word, n in (("from", self.minimum), ("to", self.maximum)) if n is not None]
        return _NAMES.get(self.type, self.type.__name__) + "".join(bounds)

    def parse(self, value: Any) -> Any:
        """Return the value of a text, of None if there is no text, or of a value of Python. Raises UsageError for any
        other."""
        found = self._read(value)
        if type(found) is not self.type or not self._allows(found):
            if value is None:
                raise UsageError.of("E0802", f"{self.name} needs a value: {self.values}")
            shown, help = repr(value), None
            if isinstance(value, str):
                shown, help = f"'{clipped(value)}'", nearest(value, self.choices)
            raise UsageError.of("E0802", f"{self.name} must be {self.values}, not {shown}", help=help)
        return found

    def _allows(self, value: Any) -> bool:
        """Return whether a value of the right type is in the range, and one of the choices."""
        above = self.minimum is None or value >= self.minimum
        below = self.maximum is None or value <= self.maximum
        return above and below and (not self.choices or value in self.choices)

    def _read(self, value: Any) -> Any:
        """Return what a value means; None if it means nothing."""
        if value is None:
            return self.choices[0] if self.choices else True
        if isinstance(value, str) and self.type is int:
            return int(value) if re.fullmatch(r"-?[0-9]{1,18}", value) else None
        if isinstance(value, str) and self.type is bool:
            return {"true": True, "false": False}.get(value.lower())
        if self.type is float and type(value) in (str, int):
            try:
                number = float(value)
            except ValueError:
                return None
            return number if math.isfinite(number) else None
        return value


def assignment(text: str) -> tuple[str, str | None]:
    """Return the name and the value of `name=value`; None if there is no `=`."""
    name, equals, value = text.partition("=")
    return name, value if equals else None


def read(given: Iterable[tuple[str, Any]], table: Iterable[Option], owner: str, what: str = "option") -> dict[str, Any]:
    """Return the values of options by name; `what` and `owner` are their name and their owner in messages. Raises UsageError
    for an unknown option, one that is given twice, and a wrong value."""
    known = {option.name: option for option in table}
    values: dict[str, Any] = {}
    for name, value in given:
        if name not in known:
            help = nearest(name, known) or f"it takes {one_of(sorted(known)) if known else f'no {what}s'}"
            raise UsageError.of("E0802", f"{owner} has no {what} '{clipped(name)}'", help=help)
        if name in values:
            raise UsageError.of("E0802", f"'{name}' is given twice for {owner}")
        values[name] = known[name].parse(value)
    return values

"""Records: frozen dataclasses whose methods are compiled when they are first used.

`@dataclass(frozen=True, slots=True)` compiles six functions as soon as a class is defined. `validate` defines 60 such classes,
makes instances of 30, and compares none: defining them took a fifth of its time.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from types import FunctionType
from typing import Any, TypeVar, dataclass_transform, overload

T = TypeVar("T", bound=type)


@overload
def record(cls: T, /) -> T: ...
@overload
def record(*, slots: bool = True, eq: bool = True) -> Callable[[T], T]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type | None = None, /, *, slots: bool = True, eq: bool = True) -> Any:
    """Make a class a frozen dataclass: it compares, prints, copies and pickles like one. Each field is an argument of
    `__init__`. A subclass that adds fields is a record too."""

    def decorate(cls: type) -> type:
        made: type = dataclass(init=False, repr=False, eq=False, slots=slots)(cls)
        compiled = {name: _Compiled(made, name) for name in COMPILERS if eq or name == "__init__"}
        for name, method in {**compiled, **SHARED, **(STATE if slots else {})}.items():
            if vars(made).get(name) is None:  # a class that defines `__eq__` has None as its `__hash__`
                setattr(made, name, method)
        return made

    return decorate if cls is None else decorate(cls)


class _Compiled:
    """Stands in a class for a method: the first look-up compiles the method, which then takes its place."""

    def __init__(self, cls: type, name: str) -> None:
        self.cls, self.name = cls, name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        method = COMPILERS[self.name](self.cls)
        method.__module__, method.__qualname__ = self.cls.__module__, f"{self.cls.__qualname__}.{self.name}"
        setattr(self.cls, self.name, method)
        return method.__get__(instance, owner)


def _init(cls: type) -> FunctionType:
    scope: dict[str, Any] = {"__set": object.__setattr__, "__missing": MISSING}
    parameters, lines = ["self"], []
    for f in fields(cls):
        default, value = f"__default_{f.name}", f.name
        if f.default_factory is not MISSING:
            scope[default] = f.default_factory
            parameters.append(f"{f.name}=__missing")
            value = f"{default}() if {f.name} is __missing else {f.name}"
        elif f.default is not MISSING:
            scope[default] = f.default
            parameters.append(f"{f.name}={default}")
        else:
            parameters.append(f.name)
        lines.append(f"__set(self, {f.name!r}, {value})")
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    method = _function("__init__", parameters, lines or ["pass"], scope)
    method.__annotations__ = {f.name: f.type for f in fields(cls)} | {"return": None}
    return method


def _eq(cls: type) -> FunctionType:
    same = f"{_values(cls, 'self')} == {_values(cls, 'other')}"
    return _function(
        "__eq__", ["self", "other"], [f"return {same} if other.__class__ is self.__class__ else NotImplemented"]
    )


def _hash(cls: type) -> FunctionType:
    return _function("__hash__", ["self"], [f"return hash({_values(cls, 'self')})"])


def _values(cls: type, of: str) -> str:
    """Return the tuple of the compared fields of a record as source."""
    return f"({''.join(f'{of}.{f.name},' for f in fields(cls) if f.compare)})"


def _function(
    name: str, parameters: Sequence[str], lines: Sequence[str], scope: dict[str, Any] | None = None
) -> FunctionType:
    scope = scope or {}
    exec(f"def {name}({', '.join(parameters)}):\n " + "\n ".join(lines), scope)
    made: FunctionType = scope[name]
    return made


#: The methods that depend on the fields of a class.
COMPILERS: Mapping[str, Callable[[type], FunctionType]] = {"__init__": _init, "__eq__": _eq, "__hash__": _hash}


@reprlib.recursive_repr()
def _repr(self: Any) -> str:
    shown = (f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _setattr(self: Any, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, f.name) for f in fields(self)]


def _setstate(self: Any, state: Sequence[Any]) -> None:
    for f, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, f.name, value)


SHARED: Mapping[str, Any] = {"__repr__": _repr, "__setattr__": _setattr, "__delattr__": _delattr}
#: What copies and pickles a class with slots.
STATE: Mapping[str, Any] = {"__getstate__": _getstate, "__setstate__": _setstate}

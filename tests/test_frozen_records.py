"""Records behave like the frozen dataclasses of the standard library, and compile a method when it is first used."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rescompile.records import record

SOURCE = Path(__file__).parents[1]


def family(record: Any) -> tuple[Any, ...]:
    """Return classes with every kind of field and method, decorated with `record`."""

    @record
    class Point:
        """A class with every kind of field."""

        x: int
        y: int = 2
        tags: list[str] = field(default_factory=list)
        note: str | None = field(default=None, compare=False, repr=False)
        facts: Mapping[str, int] = field(default_factory=dict, compare=False)

    @record(slots=False)
    class Loose(Point):
        """A subclass with one more field and a check."""

        z: int = 3

        def __post_init__(self) -> None:
            if self.z < 0:
                raise ValueError("z is negative")

    @record(eq=False)
    class Same:
        """A class compared by identity."""

        x: int = 1

    @record
    class Written:
        """A class that defines its own methods."""

        x: int

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 7

        def __repr__(self) -> str:
            return "written"

    @record
    class Empty:
        """A class without fields."""

    return Point, Loose, Same, Written, Empty


def standard(cls: Any = None, **options: bool) -> Any:
    """Decorate as `record` does, with the standard library."""
    return dataclass(cls, frozen=True, **{"slots": True, **options})  # type: ignore[call-overload]


PAIRS = tuple(zip(family(record), family(standard), strict=True))
ARGUMENTS = (
    (),
    (1,),
    (1, 5),
    (1, 2, ["a"]),
    (1, 2, ["a"], "n", {"k": 1}),
    (0, 1, 2, 3, 4, 5),
    (1, 2, (), "", {}, -1),
    (1, 2, 3, 4, 5, 6, 7),
)


def outcome(function: Callable[[], object]) -> object:
    """Return the result of a call, or the type and text of its exception."""
    try:
        return function()
    except Exception as error:
        return type(error), str(error)


USES: tuple[Callable[[Any], object], ...] = (
    repr,
    asdict,
    lambda instance: hash(instance) if type(instance).__hash__ is not object.__hash__ else None,
    lambda instance: hash(replace(instance, tags=())),
    lambda instance: instance == replace(instance),
    lambda instance: instance == replace(instance, note="other"),
    lambda instance: instance == replace(instance, y=9),
    lambda instance: instance != 1,
    lambda instance: [setattr(instance, name, 1) for name in instance.__match_args__],
    lambda instance: [delattr(instance, name) for name in instance.__match_args__],
    lambda instance: hasattr(instance, "__dict__"),
)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_a_record_does_what_a_frozen_dataclass_does(ours: Any, theirs: Any) -> None:
    """Instances of a record have the same representations, hashes, comparisons and errors as those of a frozen dataclass."""
    assert ours.__match_args__ == theirs.__match_args__
    assert inspect.get_annotations(ours.__init__) == inspect.get_annotations(theirs.__init__)
    for given in ARGUMENTS:
        instance, expected = outcome(partial(ours, *given)), outcome(partial(theirs, *given))
        if isinstance(expected, tuple):
            assert instance == expected
            continue
        for use in USES:
            assert outcome(partial(use, instance)) == outcome(partial(use, expected)), use


@record
class Pickled:
    """A class that pickle finds by its name."""

    x: int
    note: str = field(default="", compare=False)


@record(slots=False)
class PickledLoose(Pickled):
    """The same with a `__dict__`."""

    z: int = 3


@pytest.mark.parametrize("instance", [Pickled(1, "n"), PickledLoose(1, "n", 4)])
def test_records_are_copied_and_pickled(instance: Any) -> None:
    """Copies are immutable and equal in all fields, including those that are not compared."""
    for copied in (copy.copy(instance), copy.deepcopy(instance), pickle.loads(pickle.dumps(instance))):
        assert type(copied) is type(instance)
        assert asdict(copied) == asdict(instance)
        with pytest.raises(FrozenInstanceError, match="cannot assign to field 'x'"):
            copied.x = 2


def test_default_factories_are_called_for_each_instance() -> None:
    point = PAIRS[0][0]
    assert point(1).tags is not point(1).tags


def test_methods_are_compiled_when_they_are_first_used() -> None:
    """No method is compiled when a class is defined, and only `__init__` when an instance is created."""

    @record
    class Fresh:
        x: int

    compiled = {"__init__", "__eq__", "__hash__"}
    assert not any(inspect.isfunction(vars(Fresh)[name]) for name in compiled)
    instance = Fresh(1)
    assert {name for name in compiled if inspect.isfunction(vars(Fresh)[name])} == {"__init__"}
    assert instance == Fresh(1)
    assert hash(instance) == hash(Fresh(1))
    assert all(inspect.isfunction(vars(Fresh)[name]) for name in compiled)


def test_all_frozen_dataclasses_are_records() -> None:
    """No class is a frozen dataclass of the standard library, which compiles six functions at import."""
    eager = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for folder in ("rescompile", "backends")
        for path in sorted((SOURCE / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and any("dataclass(frozen" in ast.unparse(d) for d in node.decorator_list)
    ]
    assert not eager

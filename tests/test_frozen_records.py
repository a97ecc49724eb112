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
    """Return classes with each kind of field and method, made by a decorator."""

    @record
    class Point:
        """Each kind of field."""

        x: int
        y: int = 2
        tags: list[str] = field(default_factory=list)
        note: str | None = field(default=None, compare=False, repr=False)
        facts: Mapping[str, int] = field(default_factory=dict, compare=False)

    @record(slots=False)
    class Loose(Point):
        """One more field, and a condition."""

        z: int = 3

        def __post_init__(self) -> None:
            if self.z < 0:
                raise ValueError("z is negative")

    @record(eq=False)
    class Same:
        """Equal to itself only."""

        x: int = 1

    @record
    class Written:
        """Methods of its own."""

        x: int

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 7

        def __repr__(self) -> str:
            return "written"

    @record
    class Empty:
        """No fields."""

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
    lambda made: hash(made) if type(made).__hash__ is not object.__hash__ else None,
    lambda made: hash(replace(made, tags=())),
    lambda made: made == replace(made),
    lambda made: made == replace(made, note="other"),
    lambda made: made == replace(made, y=9),
    lambda made: made != 1,
    lambda made: [setattr(made, name, 1) for name in made.__match_args__],
    lambda made: [delattr(made, name) for name in made.__match_args__],
    lambda made: hasattr(made, "__dict__"),
)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_a_record_does_what_a_frozen_dataclass_does(ours: Any, theirs: Any) -> None:
    """Both make the same instances from the same arguments, with the same texts, hashes, differences and errors."""
    assert ours.__match_args__ == theirs.__match_args__
    assert inspect.get_annotations(ours.__init__) == inspect.get_annotations(theirs.__init__)
    for given in ARGUMENTS:
        made, expected = outcome(partial(ours, *given)), outcome(partial(theirs, *given))
        if isinstance(expected, tuple):
            assert made == expected
            continue
        for use in USES:
            assert outcome(partial(use, made)) == outcome(partial(use, expected)), use


@record
class Pickled:
    """A class that pickle finds by its name."""

    x: int
    note: str = field(default="", compare=False)


@record(slots=False)
class PickledLoose(Pickled):
    """The same with a `__dict__`."""

    z: int = 3


@pytest.mark.parametrize("made", [Pickled(1, "n"), PickledLoose(1, "n", 4)])
def test_records_are_copied_and_pickled(made: Any) -> None:
    """Copies are equal in all fields, also in those that do not compare, and immutable."""
    for copied in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert type(copied) is type(made)
        assert asdict(copied) == asdict(made)
        with pytest.raises(FrozenInstanceError, match="cannot assign to field 'x'"):
            copied.x = 2


def test_default_factories_are_called_for_each_instance() -> None:
    point = PAIRS[0][0]
    assert point(1).tags is not point(1).tags


def test_methods_are_compiled_when_they_are_first_used() -> None:
    """A class that is only defined has compiled nothing; an instance needs `__init__` alone."""

    @record
    class Fresh:
        x: int

    compiled = {"__init__", "__eq__", "__hash__"}
    assert not any(inspect.isfunction(vars(Fresh)[name]) for name in compiled)
    made = Fresh(1)
    assert {name for name in compiled if inspect.isfunction(vars(Fresh)[name])} == {"__init__"}
    assert made == Fresh(1)
    assert hash(made) == hash(Fresh(1))
    assert all(inspect.isfunction(vars(Fresh)[name]) for name in compiled)


def test_all_frozen_dataclasses_are_records() -> None:
    """A frozen dataclass of the standard library costs every command the compilation of six functions."""
    eager = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for folder in ("rescompile", "backends")
        for path in sorted((SOURCE / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and any("dataclass(frozen" in ast.unparse(d) for d in node.decorator_list)
    ]
    assert not eager

"""Mutation tests: each bug planted by a module `*mutants.py` of tests/support is detected within 200 random specs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path

import laws
import pytest
import targets
from cases import Case, case
from core_mutants import OF_THE_CORE
from mutants import OF_BACKENDS, OF_THE_TREE
from random_document import drawn
from rerun_mutants import OF_RERUNS
from source_mutants import MUTANTS as OF_SOURCE
from source_mutants import OF_PROGRAMS
from value_mutants import OF_VALUES

from rescompile.analysis.cost import counts
from rescompile.diagnostics.errors import SpecError

SPECS = 200
Check = Callable[[Case], object]
Mistakes = Mapping[str, Callable[[pytest.MonkeyPatch], None]]
#: Bugs of generated source that only a module shows.
OF_MODULES: Mistakes = {name: plant for name, plant in OF_SOURCE.items() if name not in OF_PROGRAMS}
#: The bugs by area, with the checks that must detect them, and whether they affect the elaborated network.
ROOMS: dict[str, tuple[Mistakes, tuple[Check, ...], bool]] = {
    "backends": (OF_BACKENDS, (targets.onnx,), False),
    "tree": (OF_THE_TREE, (targets.elaboration,), True),
    "core": (OF_THE_CORE, (targets.elaboration, targets.canonical, targets.onnx, *laws.LAWS), True),
    "values": (OF_VALUES, (targets.elaboration, targets.programs), True),
    "reruns": (OF_RERUNS, (targets.elaboration, targets.canonical, targets.onnx, targets.programs), True),
    "programs": (OF_PROGRAMS, (targets.programs,), False),
    "modules": (OF_MODULES, (targets.source,), False),
}
MUTANTS = [(room, name) for room, (listed, _, _) in ROOMS.items() for name in listed]


document = cache(drawn)
#: A folder that is removed at the end of the tests.
FOLDER = tempfile.TemporaryDirectory(prefix="rescompile_trust")


@cache
def healthy(seed: int) -> Case:
    """Return a case built without a planted bug. Raises SpecError if rescompile rejects the document."""
    return case(document(seed), Path(tempfile.mkdtemp(dir=FOLDER.name)))


@cache
def accepted() -> tuple[int, ...]:
    """Return the seeds of the documents that rescompile accepts without a planted bug."""

    def is_accepted(seed: int) -> bool:
        try:
            healthy(seed)
        except SpecError:
            return False
        return True

    return tuple(seed for seed in range(SPECS) if is_accepted(seed))


def sees(check: Check, made: Case) -> bool:
    """Return whether a check fails."""
    try:
        check(made)
    except Exception:
        return True
    return False


def seen(seeds: Iterable[int], checks: tuple[Check, ...], anew: bool, folder: Path) -> int | None:
    """Return the first seed on which a check fails, or None; a network that cannot be built is a failure too."""
    for seed in seeds:
        try:
            made = case(document(seed), folder) if anew else healthy(seed)
        except Exception:
            return seed
        if any(sees(check, made) for check in checks):
            return seed
    return None


@pytest.mark.slow
@pytest.mark.parametrize(("room", "name"), MUTANTS)
def test_mistake_is_seen(room: str, name: str, tmp_path: Path) -> None:
    """A check fails while the bug is planted, and none fails without it."""
    listed, checks, anew = ROOMS[room]
    seeds = accepted()
    with pytest.MonkeyPatch.context() as patch:
        listed[name](patch)
        counts.cache_clear()
        found = seen(seeds, checks, anew, tmp_path)
    counts.cache_clear()
    assert found is not None, f"{name} goes unnoticed in {SPECS} specs"
    again = case(document(found), tmp_path)
    assert not any(sees(check, again) for check in checks)

"""Run all checks on random specs, and collect counts and faults."""

from __future__ import annotations

import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from cases import Fault, Overflow, case
from drawn_documents import Drawn
from laws import LAWS
from random_document import BIG, drawn
from targets import TARGETS

from rescompile.diagnostics.errors import SpecError

CHECKS = (*TARGETS, *LAWS)


@dataclass
class Findings:
    """Counts of specs and of passed checks, the rejected specs, and the faults as (seed, check, message)."""

    counts: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[int, str]] = field(default_factory=list)
    faults: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        """Add the findings of other seeds."""
        self.counts.update(other.counts)
        self.refused += other.refused
        self.faults += other.faults


def examined(document: Drawn, folder: Path) -> Findings:
    """Run all checks on a document and return the findings. A failed check does not stop the others."""
    found, seed = Findings(), document.seed
    found.counts["specs"] += 1
    try:
        made = case(document, folder)
    except SpecError as error:
        found.refused.append((seed, str(error)))
        return found
    except Exception as error:
        found.faults.append((seed, "elaboration", _told(error)))
        return found
    found.counts["valid"] += 1
    found.counts["large"] += seed >= BIG
    for check in CHECKS:
        try:
            found.counts[check.__name__] += check(made) is not False
        except Overflow:
            found.counts["checks that need values where float32 overflows"] += 1
        except Exception as error:
            name = error.check if isinstance(error, Fault) else check.__name__
            found.faults.append((seed, name, _told(error)))
    return found


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, Fault) else "".join(traceback.format_exception(error)[-4:])


def seeds(first: int, last: int) -> Findings:
    """Run all checks on the documents of a range of seeds and return the findings."""
    found = Findings()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, last):
            found.add(examined(drawn(seed), Path(folder)))
    return found

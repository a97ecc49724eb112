"""`make fuzz N=50000`: mutated specs in child processes with limits on time and memory.

    python tests/support/fuzz_specs.py COUNT [FIRST_SEED]

Every case must be accepted, or rejected by a documented error that passes the checks of `refusals`. Failures are
printed with their seeds; the exit status is 1 if there are any.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from mutations import mutant
from refusals import hold, refusal

SECONDS, BYTES = 1.0, 150 << 20
BATCH = 250


class TooSlow(BaseException):
    """A case that took more CPU time than allowed."""


def outcome(seed: int, path: Path) -> str:
    """Return `accepted`, the code of the error, or after a `!` one line that describes the failure."""
    case = mutant(seed)
    path.write_text(case.text, encoding="utf-8", errors="surrogatepass")
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        error = refusal(path, case.settings)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if error is None:
            return "accepted"
        hold(error)
        return error.diagnostics[0].code
    except BaseException as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"! {type(error).__name__}: {str(error)[:200]!r} at {Path(last.filename).name}:{last.lineno}"


def best_of_two(seed: int, path: Path) -> str:
    """Return the outcome, after a second try if the case took too long: a busy machine is slower."""
    found = outcome(seed, path)
    return outcome(seed, path) if TooSlow.__name__ in found else found


def too_slow(*_: Any) -> None:
    """Handle the signal of the timer."""
    raise TooSlow(f"more than {SECONDS:g} s")


def limited() -> None:
    """Limit the additional memory that this process may allocate."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES,) * 2)


def batch(seeds: range) -> dict[int, str]:
    """Return the outcome of each seed from a child process; the first seed without one is that at which the child died."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.signal(signal.SIGPROF, too_slow)
        gc.disable()  # as the command does
        limited()
        with tempfile.TemporaryDirectory() as folder, os.fdopen(writing, "w") as pipe:
            for seed in seeds:
                print(json.dumps([seed, best_of_two(seed, Path(folder) / "mutant.yaml")]), file=pipe, flush=True)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        outcomes = dict(json.loads(line) for line in pipe)
    _, status = os.waitpid(child, 0)
    for seed in seeds[len(outcomes) : len(outcomes) + 1]:
        outcomes[seed] = f"! the process died with status {status}"
    return outcomes


def main(count: int, first: int = 0) -> int:
    """Run `count` seeds, print a report, and return the exit status."""
    mutant(first)  # reads the texts once, for all children
    began, totals, broken = time.monotonic(), Counter[str](), 0
    seed = first
    while seed < first + count:
        outcomes = batch(range(seed, min(seed + BATCH, first + count)))
        for at, found in outcomes.items():
            totals["broken" if found.startswith("!") else found] += 1
            if found.startswith("!"):
                broken += 1
                print(f"seed {at}: {found[2:]}", flush=True)
        seed += len(outcomes)
    listed = ", ".join(f"{code} {number}" for code, number in totals.most_common())
    print(f"{count:,} mutations in {time.monotonic() - began:.0f} s, {broken} broke the promise: {listed}")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))

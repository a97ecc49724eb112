"""`make fuzz N=50000`: mutated specs in child processes, each within the limits of time and memory.

    python tests/support/fuzz_specs.py COUNT [FIRST_SEED]

Every case is right, or refused by a documented error that holds what all refusals do. Prints what broke the promise, with its
seed; exits with 1 if anything did.
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
    """A case that took more processor time than it may."""


def outcome(seed: int, path: Path) -> str:
    """`accepted`, the code of the refusal, or how the case broke the promise, in one line after a `!`."""
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
    """The outcome, once more where the case took too long: on a machine that is busy the same work takes more time."""
    found = outcome(seed, path)
    return outcome(seed, path) if TooSlow.__name__ in found else found


def too_slow(*_: Any) -> None:
    """The handler of the timer."""
    raise TooSlow(f"more than {SECONDS:g} s")


def limited() -> None:
    """Let this process use a bounded amount of memory more than it does now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES,) * 2)


def batch(seeds: range) -> dict[int, str]:
    """The outcome of each seed, in a child process; a seed without one is that at which the child died."""
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
    """Run `count` seeds and report."""
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

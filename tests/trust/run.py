"""Run all checks on many random specs; `make trust` calls this script.

    python tests/trust/run.py --specs 10000 --large 200         # seeds 0 to 9,999, and 200 networks of 100 to 1,000 blocks
    python tests/trust/run.py --specs 1 --from 235 --large 0    # one seed that failed

Each seed goes through every check of `targets.py` and `laws.py`; each process examines a range of seeds. The exit
status is 1 if any check failed. The smallest spec that still fails is written to build/trust/.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # processes share the cores
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from examine import Findings, seeds
from random_document import BIG, drawn
from shrinking import shrunk

FOLDER = Path("build/trust")
#: The seeds per range, and the ranges per process: processes end early to release the memory that frameworks keep.
SMALL_STEP, LARGE_STEP, STEPS = 50, 4, 4
#: The largest share of rejected specs: with few valid specs, the run would prove little.
MOST_REFUSED = 0.4


Span = tuple[int, int]


def ranges(first: int, specs: int, large: int) -> Iterator[Span]:
    """Yield the ranges of seeds, small networks first."""
    for start, count, step in ((first, specs, SMALL_STEP), (BIG, large, LARGE_STEP)):
        step = LARGE_STEP if start >= BIG else step
        yield from ((at, min(at + step, start + count)) for at in range(start, start + count, step))


def main() -> int:
    """Run, print progress and a summary, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--specs", type=int, default=10_000, help="how many seeds")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of them, to resume")
    parser.add_argument("--large", type=int, default=200, help="how many networks of hundreds of blocks")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    options = parser.parse_args()
    found, started = Findings(), time.monotonic()
    spans = list(ranges(options.first, options.specs, options.large))
    for done, ((first, last), part) in enumerate(results(spans, options.jobs), 1):
        found.add(part)
        passed = time.monotonic() - started
        left = passed / done * (len(spans) - done)
        print(
            f"seeds {first} to {last - 1}: {found.counts['specs']:,} specs, {found.counts['valid']:,} valid, "
            f"{len(found.faults)} faults; {found.counts['specs'] / passed:.1f} a second, {left / 60:.0f} min left",
            flush=True,
        )
        for _, _, message in part.faults:
            print(f"    {message}", flush=True)
    return summary(found, time.monotonic() - started)


def results(spans: Sequence[Span], jobs: int) -> Iterator[tuple[Span, Findings]]:
    """Yield the findings of each range of seeds as they complete. A pool is replaced after STEPS ranges per process:
    with `max_tasks_per_child`, a pool of Python 3.11 may wait forever (python/cpython#115634)."""
    for some in batched(spans, jobs * STEPS):
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            parts = {pool.submit(seeds, *span): span for span in some}
            yield from ((parts[part], _result(part, parts[part])) for part in as_completed(parts))


def batched(spans: Sequence[Span], size: int) -> Iterator[Sequence[Span]]:
    """Yield the ranges in groups of at most `size`."""
    yield from (spans[at : at + size] for at in range(0, len(spans), size))


def _result(part: Future[Findings], span: Span) -> Findings:
    try:
        return part.result()
    except BrokenProcessPool:
        return Findings(faults=[(span[0], "process", f"a process died in seeds {span[0]} to {span[1] - 1}")])


def summary(found: Findings, seconds: float) -> int:
    """Print the counts and every fault, and return the exit status."""
    for name, count in found.counts.items():
        print(f"{count:>8,}  {name.replace('_', ' ')}")
    print(f"{seconds / 60:>8.1f}  minutes")
    for seed, message in found.refused[:5]:
        print(f"refused: make trust N=1 SEED={seed} LARGE=0\n    {message}")
    for at, (seed, check, message) in enumerate(found.faults):
        print(f"FAULT: make trust N=1 SEED={seed} LARGE=0\n    {message}")
        if at < 3 and check != "process":
            FOLDER.mkdir(parents=True, exist_ok=True)
            path = FOLDER / f"{seed}.yaml"
            path.write_text(shrunk(drawn(seed), check).text, encoding="utf-8")
            print(f"    the smallest spec that still fails: {path}")
    specs = found.counts["specs"]
    if len(found.refused) > MOST_REFUSED * specs:
        print(f"only {found.counts['valid']:,} of {specs:,} specs are valid")
        return 1
    print(f"{len(found.faults)} faults")
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())

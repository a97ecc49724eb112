"""A network in a process of its own: for libraries that have been seen to end the process that they run in, and for what a
process is told once, when it starts.

A library that writes where it must not takes all of Python with it: no error can be caught, and what was measured before is
lost. Whoever runs a network in a child first loses the child alone. It costs one more start of Python, one more load of the
library and one more compilation of the network.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rescompile.diagnostics.errors import Diagnostic, Unavailable
from rescompile.runtimes.device import libraries

if TYPE_CHECKING:
    from rescompile.runtimes import Job, Runtime

#: The child has the parent's path and nothing before it: it must import the very libraries that the parent would.
_CHILD = "import json, sys; sys.path[:] = json.load(sys.stdin); from rescompile.runtimes.child import main; main(sys.argv[1])"


def survive(runtime: Runtime, job: Job, options: Mapping[str, Any]) -> None:
    """Run an ONNX job once in a child. Raises Unavailable where the child was ended by a signal.

    A child that fails with an error says nothing here: the parent will meet the same error, and can tell it.
    """
    how = ending(_ran(runtime, job, options, None, {}).returncode)
    if how is not None:
        message = f"{runtime.name} ended its process ({how}) when it ran {job.name} in {job.precision}"
        version = libraries().get(runtime.extra)
        fault = f"a fault in {runtime.extra}{f' {version}' if version else ''}: another precision or version may run it"
        help = "a system that runs out of memory does that" if how == "SIGKILL" else fault
        raise Unavailable(Diagnostic("E0901", message, help=help))


def profile(
    runtime: Runtime, job: Job, options: Mapping[str, Any], runs: int, environment: Mapping[str, str]
) -> list[tuple[str, float]]:
    """What `Runtime.profile` finds of an ONNX job in a child with these variables in its environment. Raises Unavailable
    with what the child said where it found nothing."""
    done = _ran(runtime, job, options, runs, environment)
    if done.returncode:
        how = ending(done.returncode)
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
        why = last if how is None else f"its process was ended ({how})"
        raise Unavailable(Diagnostic("E0901", f"{runtime.name} cannot profile {job.name}: {why}"))
    return [(name, seconds) for name, seconds in json.loads(done.stdout.splitlines()[-1])]


def _ran(
    runtime: Runtime, job: Job, options: Mapping[str, Any], runs: int | None, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """A child that ran a job, or profiled so many runs of it."""
    assert job.model is not None
    with tempfile.TemporaryDirectory() as folder:
        x = Path(folder) / "input.npy"
        np.save(x, job.input)
        told = [runtime.name, job.name, str(job.model), str(x), job.precision, job.threads, dict(options), runs]
        return subprocess.run(
            [sys.executable, "-P", "-c", _CHILD, json.dumps(told)], input=json.dumps(sys.path), text=True,
            env={**os.environ, **environment}, capture_output=True, errors="replace", check=False,
        )  # fmt: skip


def ending(code: int) -> str | None:
    """What ended a process from outside of Python, in words; None where it left by itself, with an error or without."""
    if code < 0:
        known = {int(each): each.name for each in signal.Signals}
        return known.get(-code, f"signal {-code}")
    if os.name == "nt" and code >= 1 << 30:  # statuses of Windows: 0xC0000005 is an access violation
        return f"status {code:#010x}"
    return None

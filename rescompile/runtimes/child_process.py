"""Run a network in a child process, for libraries that can crash their process and for environment variables that are read once
per process.

A native crash ends Python without an exception, and with it all earlier measurements; in a child it ends only the child. The
cost is one more start of Python, one more import of the library and one more compilation of the network.
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

from rescompile.diagnostics.errors import Unavailable
from rescompile.runtimes.device import libraries

if TYPE_CHECKING:
    from rescompile.runtimes import Job, Runtime

#: The child has exactly the import path of the parent, so that it imports the same libraries.
_CHILD = "import json, sys; sys.path[:] = json.load(sys.stdin); from rescompile.runtimes.child_main import main; main(sys.argv[1])"


def survive(runtime: Runtime, job: Job, options: Mapping[str, Any]) -> None:
    """Run an ONNX job once in a child. Raises Unavailable if a signal ended the child.

    An ordinary error of the child is ignored: the parent will raise and report the same error.
    """
    how = crash_cause(_ran(runtime, job, options, None, {}).returncode)
    if how is not None:
        message = f"{runtime.name} crashed its process ({how}) while it ran {job.name} in {job.precision}"
        version = libraries().get(runtime.extra)
        fault = f"a bug in {runtime.extra}{f' {version}' if version else ''}: another precision or version may run it"
        help = "the system may have run out of memory" if how == "SIGKILL" else fault
        raise Unavailable.of("E0901", message, help=help)


def profile(
    runtime: Runtime, job: Job, options: Mapping[str, Any], runs: int, environment: Mapping[str, str]
) -> list[tuple[str, float]]:
    """Return the result of `Runtime.profile` for an ONNX job, from a child with these environment variables. Raises
    Unavailable with the error of the child if it failed."""
    done = _ran(runtime, job, options, runs, environment)
    if done.returncode:
        how = crash_cause(done.returncode)
        last = (done.stderr.strip().splitlines() or ["no error message"])[-1][:300]
        why = last if how is None else f"its process crashed ({how})"
        raise Unavailable.of("E0901", f"{runtime.name} cannot profile {job.name}: {why}")
    return [(name, seconds) for name, seconds in json.loads(done.stdout.splitlines()[-1])]


def _ran(
    runtime: Runtime, job: Job, options: Mapping[str, Any], runs: int | None, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Return a child process that has run a job once, or has profiled this many runs of it."""
    assert job.model is not None
    with tempfile.TemporaryDirectory() as folder:
        x = Path(folder) / "input.npy"
        np.save(x, job.input)
        arguments = [runtime.name, job.name, str(job.model), str(x), job.precision, job.threads, dict(options), runs]
        return subprocess.run(
            [sys.executable, "-P", "-c", _CHILD, json.dumps(arguments)], input=json.dumps(sys.path), text=True,
            env={**os.environ, **environment}, capture_output=True, errors="replace", check=False,
        )  # fmt: skip


def crash_cause(code: int) -> str | None:
    """Return the signal or status with which a process was ended from outside Python; None if it exited by itself."""
    if code < 0:
        known = {int(each): each.name for each in signal.Signals}
        return known.get(-code, f"signal {-code}")
    if os.name == "nt" and code >= 1 << 30:  # exit statuses of Windows, such as 0xC0000005, an access violation
        return f"status {code:#010x}"
    return None

"""The child process of `child_process`: it runs or profiles one job."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from rescompile.diagnostics.errors import RescompileError
from rescompile.runtimes import RUNTIMES, Job


def main(arguments: str) -> None:
    """Run a job and print nothing, since only the survival of this process matters; or profile it and print the profile."""
    name, title, model, x, precision, threads, options, runs = json.loads(arguments)
    runtime, job = RUNTIMES[name], Job(title, Path(model), None, np.load(x), precision, threads)
    try:
        if runs is None:
            runtime.library().prepare(runtime, job, options).close()
        else:
            print(json.dumps(runtime.profile(job, options, runs)))
    except RescompileError as error:
        sys.exit(error.diagnostics[0].message)

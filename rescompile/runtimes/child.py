"""The child's side of `apart`: runs or profiles one job in this process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from rescompile.diagnostics.errors import RescompileError
from rescompile.runtimes import RUNTIMES, Job


def main(told: str) -> None:
    """Run a job, and say nothing: that this process is still there is the answer. Or profile it, and print what was found."""
    name, title, model, x, precision, threads, options, runs = json.loads(told)
    runtime, job = RUNTIMES[name], Job(title, Path(model), None, np.load(x), precision, threads)
    try:
        if runs is None:
            runtime.library().prepare(runtime, job, options).close()
        else:
            print(json.dumps(runtime.profile(job, options, runs)))
    except RescompileError as error:
        sys.exit(error.diagnostics[0].message)

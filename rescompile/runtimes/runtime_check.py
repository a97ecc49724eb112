"""Checks whether a runtime works: it runs a network of four layers, whose outputs are compared with those of the
interpreter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rescompile.diagnostics.errors import RescompileError, Source
from rescompile.elaboration import elaborate
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import LOGITS
from rescompile.ir.precision import FLOATS
from rescompile.lang.load import load_text
from rescompile.records import record
from rescompile.runtimes import Runtime
from rescompile.runtimes.jobs import run
from rescompile.weights import draw

_SPEC = """\
rescompile: 1
name: trial
input: [3, 8, 8]
network:
  - conv: {channels: 8, kernel: 3, bias: true}
  - relu
  - global_avgpool
  - flatten
  - fc: {linear: 4}
"""
#: The error allowed in the check: the rounding errors of this many operations.
_UNITS = 8


@record
class Trial:
    """One runtime in one precision: its relative error and the bound, or the reason why there is none and what to install."""

    precision: str
    error: float | None
    bound: float
    reason: str | None = None
    help: str | None = None
    facts: Mapping[str, Any] | None = None

    @property
    def passed(self) -> bool:
        """Whether the output was correct."""
        return self.error is not None and self.error <= self.bound


def trials(runtime: Runtime) -> Iterator[Trial]:
    """Run the network in each precision of the runtime except int8, which needs a quantised file."""
    network = elaborate(load_text(Source("trial", _SPEC)))
    weights = draw(network)
    x = np.random.default_rng(0).standard_normal((2, *network.input), np.float32)
    exact = interpret(network, weights, x)[LOGITS]
    for precision in runtime.precisions:
        if precision not in FLOATS:
            continue
        bound = _UNITS * FLOATS[precision].unit
        try:
            outputs, facts = run(runtime, {}, precision, network, weights, x)
        except RescompileError as error:
            first = error.diagnostics[0]
            yield Trial(precision, None, bound, first.message, first.help)
            continue
        except Exception as error:  # an installed but broken library
            yield Trial(precision, None, bound, f"{type(error).__name__}: {str(error)[:300]}")
            continue
        off = float(np.linalg.norm(outputs[LOGITS] - exact) / np.linalg.norm(exact))
        yield Trial(precision, off, bound, None if off <= bound else "its output is wrong", facts=facts)

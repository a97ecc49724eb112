"""Checks whether arrays fit into the memory of this machine, before they are allocated."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from rescompile.diagnostics.errors import UsageError
from rescompile.ir.network import Network, Op, walk

#: The approximate number of arrays, each as large as its largest input and output, that the interpreter has in memory at once.
_COPIES = 4


def total() -> int | None:
    """Return the memory of this machine in bytes; None if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def check(needed: int, what: str, help: str | None = None) -> None:
    """Raise UsageError if something needs more bytes than the machine has, or 1 TiB if that is unknown."""
    available = total() or 1 << 40
    if needed > available:
        message = f"{what} needs {_shown(needed)} of memory, and this machine has {_shown(available)}"
        raise UsageError.of("E0802", message, help=help)


def check_interpreter(network: Network, batch: int) -> None:
    """Raise UsageError if the interpreter cannot evaluate a batch on this machine, in float64."""
    largest = max(
        math.prod(op.input) + math.prod(op.output) for _, op in walk(network.root, again=True) if isinstance(op, Op)
    )
    check(8 * _COPIES * batch * largest, f"--batch {batch}", help="use a smaller batch")


def check_array(shape: Sequence[int], what: str) -> None:
    """Raise UsageError if a float32 array of this shape does not fit, or has more axes than numpy can handle."""
    if len(shape) > 32:
        raise UsageError.of("E0801", f"{what} has {len(shape)} axes, more than 32")
    check(4 * math.prod(shape), what)


def _shown(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB" if size < 1 << 60 else "more than 2^60 bytes"

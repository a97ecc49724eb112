"""The progress bar."""

from __future__ import annotations

import sys
import time


class Progress:
    """A bar on a terminal, once the work has taken a second."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.started, self.shown = total, 0, time.monotonic(), False
        self.wanted = total > 0 and sys.stderr is not None and sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def advance(self, size: int) -> None:
        """So much more is done."""
        self.done += size
        if self.wanted and time.monotonic() - self.started > 1:
            self.shown = True
            share = min(self.done / self.total, 1.0)
            sys.stderr.write(f"\r[{'#' * int(share * 40):<40}] {share:4.0%}")
            sys.stderr.flush()

    def wipe(self) -> None:
        """Take the bar off the terminal, where something else is to be written."""
        if self.shown:
            sys.stderr.write("\r" + " " * 50 + "\r")
            sys.stderr.flush()
            self.shown = False

    def __exit__(self, *_: object) -> None:
        self.wipe()

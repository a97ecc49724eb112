"""The progress bar."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

#: Seconds of work before the bar appears, and between two drawings of it.
PATIENCE, PAUSE = 1.0, 0.1


class Progress:
    """A bar on standard error where that is a terminal, once the work has taken a second; without a total, a line of text at once."""

    def __init__(self, total: int | None = None) -> None:
        self.total, self.done, self.text = total, 0, ""
        self.wanted = total != 0 and sys.stderr is not None and sys.stderr.isatty()
        self.due = time.monotonic() + (0 if total is None else PATIENCE)
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        return self

    def advance(self, size: int = 1, text: str = "") -> None:
        """Count `size` more as done; `text` describes what is in progress."""
        self.done += size
        if self.wanted and (time.monotonic() >= self.due or (self._bar is not None and text != self.text)):
            self._bar = self._bar or _bar(self.total)
            self._bar.update(self._bar.task_ids[0], completed=self.done, description=text)
            self._bar.start()
            self._bar.refresh()
            self.due, self.text = time.monotonic() + PAUSE, text

    def wipe(self) -> None:
        """Remove the bar from the terminal, so that something else can be written there."""
        if self._bar is not None:
            self._bar.stop()

    def __exit__(self, *_: object) -> None:
        self.wipe()


def _bar(total: int | None) -> Bar:
    """A bar that is drawn only on request: a drawing thread would disturb measurements."""
    from rich.console import Console  # takes longer to import than most commands run
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    figures = () if total is None else (BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
    bar = Bar(
        *figures, text, console=Console(stderr=True), auto_refresh=False, transient=True,
        redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
    bar.add_task("", total=total)
    return bar

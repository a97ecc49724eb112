"""Progress on standard error: how much is done, at which rate, and how long the rest will take.

It is shown on a terminal only, once the work has taken a second, and not with --json. Messages and results wipe it
first (`reporting.say`, `wipe`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from rescompile.cli import reporting

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

T = TypeVar("T")

#: Seconds of work before the bar appears, and between two updates.
PATIENCE, PAUSE = 1.0, 0.1


class Progress:
    """A progress bar over `total` units of work, or without a total, a line of text that is shown immediately.

    Bars do not nest: one that begins within another is not shown. `scale` is the number of counted units in one that is
    shown, such as 2**20 bytes in a MiB.
    """

    def __init__(self, total: int | None = None, unit: str = "", scale: int = 1) -> None:
        self.unit, self.scale = unit, scale
        allowed = reporting.shows_progress and reporting.wipe is None
        self.wanted = total != 0 and allowed and sys.stderr is not None and sys.stderr.isatty()
        self.due = time.monotonic() + (0 if total is None else PATIENCE)
        self._bar: Bar | None = None
        self._begin(total)

    def _begin(self, total: int | None) -> None:
        """Start counting."""
        self.total, self.done, self.text, self.start = total, 0, "", time.monotonic()

    def __enter__(self) -> Progress:
        if self.wanted:
            reporting.wipe = self.wipe
        return self

    def advance(self, size: int = 1, text: str = "") -> None:
        """Count `size` more as done; `text` describes what is in progress."""
        self.done += size
        if self.wanted and (time.monotonic() >= self.due or (self._bar is not None and text != self.text)):
            self._bar = self._bar or _bar()
            self._bar.update(
                self._bar.task_ids[0], total=self.total, completed=self.done, description=text, speed=self.speed(),
            )  # fmt: skip
            self._bar.start()
            self._bar.refresh()
            self.due, self.text = time.monotonic() + PAUSE, text

    def at(self, done: int, total: int, text: str) -> None:
        """Show that `done` of `total` steps of the current part are done; a lower `done` starts a new part."""
        if done < self.done or (total or None) != self.total:
            self._begin(total or None)
        self.advance(done - self.done, text)

    def speed(self) -> str:
        """Return the rate and the time left, such as `2.5 specs/s, 0:12 left`; empty while nothing is done."""
        seconds = time.monotonic() - self.start
        if not self.done or seconds <= 0 or self.total is None:
            return ""
        rate = self.done / seconds
        left = max(round((self.total - self.done) / rate), 0)  # sizes of files are estimates
        shown = (
            f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}" if left >= 3600 else f"{left // 60}:{left % 60:02}"
        )
        return f"{rate / self.scale:.3g} {self.unit}/s, {shown} left"

    def wipe(self) -> None:
        """Remove the bar from the terminal, so that something else can be written there."""
        if self._bar is not None:
            self._bar.stop()

    def __exit__(self, *_: object) -> None:
        self.wipe()
        if self.wanted:
            reporting.wipe = None


def track(items: Iterable[T], total: int, unit: str) -> Iterator[T]:
    """Yield items, and show how many are done."""
    with Progress(total, unit) as progress:
        for item in items:
            progress.advance(0, str(item) if isinstance(item, str) else "")
            yield item
            progress.advance(1)


def _bar() -> Bar:
    """Return a bar that is drawn only on request, since a drawing thread would disturb measurements. Its bar and
    percentage are shown if there is a total."""
    from rich.console import Console  # importing it takes longer than most commands
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column
    from rich.text import Text

    class Share(ProgressColumn):
        """The percentage, and the rate and the time left."""

        def render(self, task: Task) -> Text:
            share = "" if task.total is None else f"{task.percentage:>3.0f}%"
            return Text("  ".join(filter(None, (share, task.fields["speed"]))))

    class Whole(BarColumn):
        """A bar if there is a total."""

        def render(self, task: Task) -> Any:
            return Text() if task.total is None else super().render(task)

    text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
    bar = Bar(
        Whole(), Share(), text, console=Console(stderr=True), auto_refresh=False, transient=True,
        redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
    bar.add_task("", total=None, speed="")
    return bar

"""Show the live line of `prepare`."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Column

from gpt2chat.commandline import to_command_line
from gpt2chat.report.console import clock, err, note, printable

if TYPE_CHECKING:
    from gpt2chat.core.data.prepare import Progress as Reading

PACE_SECONDS = 10.0
"""Time over which a pace is measured."""


@contextmanager
def prepare_progress() -> Generator[Callable[["Reading"], None]]:
    """Print which sources were picked, with one live line below if stderr is a terminal."""
    # A column that grows with its text would move those after it at every record.
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False, table_column=_column(18)),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[line]}", markup=False, table_column=_column(None)),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=None, line="looking for the sources")
        state = ReadingLine()

        def listen(reading: "Reading") -> None:
            if reading.note:
                note(to_command_line(reading.note))
            line = state.line(reading, time.monotonic())
            total = None if state.done < 0 else 1.0
            # Never quite 1: rich stops the spinner there, and the shards are still to be written.
            shown = min(state.done, 0.999)
            name = "writing" if state.done >= 1 else printable(reading.source)
            progress.update(task, description=name, line=line, total=total, completed=shown)

        yield listen


def _column(width: int | None) -> Column:
    return Column(max_width=width, no_wrap=True, overflow="ellipsis")


class Pace:
    """How fast a number has grown in the last seconds."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque()
        """Times and values, oldest first."""

    def add(self, now: float, value: float) -> float:
        """Return the growth per second; 0 while it is unknown."""
        self._points.append((now, value))
        # One older point stays, so that slow steps have a pace too.
        while len(self._points) > 2 and self._points[1][0] < now - PACE_SECONDS:
            self._points.popleft()
        begin, first = self._points[0]
        return (value - first) / (now - begin) if now > begin else 0.0


class ReadingLine:
    """Text of the live line. Its numbers only grow, though a record may be reported twice."""

    def __init__(self) -> None:
        self.done = -1.0
        """Share of the input that has been read; negative while it is unknown."""
        self._records: defaultdict[str, int] = defaultdict(int)
        self._records_pace = Pace()
        self._done_pace = Pace()

    def line(self, reading: "Reading", now: float) -> str:
        """Return the line after a report of progress; `now` is in seconds of any clock."""
        source = reading.source
        self._records[source] = max(self._records[source], reading.records)
        self.done = max(self.done, reading.done)
        records = sum(self._records.values())
        parts = [f"{records:,} records"] if records else []
        pace = self._records_pace.add(now, records)
        if self.done < 0:
            return " · ".join([*parts, *_pace(pace)])
        share = self._done_pace.add(now, self.done)
        if self.done >= 1:
            return " · ".join(["100%", *parts])
        left = [f"{clock((1 - self.done) / share)} left"] if share > 0 else []
        return " · ".join([f"{self.done:.0%}", *parts, *_pace(pace), *left])


def _pace(pace: float) -> list[str]:
    return [f"{pace:,.0f}/s"] if pace >= 1 else []

"""The live line of `prepare`."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Column

from gpt2chat.commandline import to_command_line
from gpt2chat.report.console import err, note, printable

if TYPE_CHECKING:
    from gpt2chat.core.data.journal import Progress as Reading

SECONDS = 10.0
"""Over which a pace is taken."""


@contextmanager
def prepare_progress() -> Generator[Callable[["Reading"], None]]:
    """Print what is picked, with one live line below it where stderr is a terminal."""
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
            # Never quite at the end: rich stops the spinner there, and all is yet to be written.
            shown = min(state.done, 0.999)
            name = "writing" if state.done >= 1 else printable(reading.source)
            progress.update(task, description=name, line=line, total=total, completed=shown)

        yield listen


def _column(width: int | None) -> Column:
    return Column(max_width=width, no_wrap=True, overflow="ellipsis")


class Pace:
    """How fast a number grows, over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    def add(self, now: float, value: float) -> float:
        """Return how much is added a second; 0 as long as that is not known."""
        self._seen.append((now, value))
        # One that is older stays, so that the pace of slow steps is known too.
        while len(self._seen) > 2 and self._seen[1][0] < now - SECONDS:
            self._seen.popleft()
        begin, first = self._seen[0]
        return (value - first) / (now - begin) if now > begin else 0.0


class ReadingLine:
    """What the live line says; its numbers only grow, though records are told of twice."""

    def __init__(self) -> None:
        self.done = -1.0
        """Share of all input that has been read; negative where that is not known."""
        self._records: defaultdict[str, int] = defaultdict(int)
        self._records_pace = Pace()
        self._done_pace = Pace()

    def line(self, reading: "Reading", now: float) -> str:
        """Return the line after a reading, `now` in seconds of any clock."""
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
        left = [f"{_clock((1 - self.done) / share)} left"] if share > 0 else []
        return " · ".join([f"{self.done:.0%}", *parts, *_pace(pace), *left])


def _pace(pace: float) -> list[str]:
    return [f"{pace:,.0f}/s"] if pace >= 1 else []


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

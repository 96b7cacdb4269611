"""Write the measurements as tables."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from page import markdown

from decoding.perplexity import FLOAT32, Cost
from decoding.rounds import Found
from decoding.tasks import Task, Timing, decode_speed, latency, prefill_speed
from decoding.ways import OURS, WAYS


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: one figure of one task."""

    title: str
    task: Task
    figure: Callable[[Task, Timing], float]
    compared: bool = True
    """Whether it is a speed, which gpt2chat's ratio to it follows."""


def single_columns(decode: Sequence[Task], prefill: Sequence[Task]) -> list[Column]:
    """Return the columns of the table of one reply at a time."""
    columns: list[Column] = []
    for task in decode:
        title = f"{task.prompt:,} to {task.prompt + task.new:,}, tokens/s"
        columns.append(Column(title, task, decode_speed))
    for task in prefill:
        columns.append(Column(f"prompt of {task.prompt:,}, ms", task, latency, compared=False))
        columns.append(Column("tokens/s", task, prefill_speed))
    return columns


def batch_columns(tasks: Sequence[Task]) -> list[Column]:
    """Return the columns of the table of several replies at a time."""
    return [
        Column(f"{task.batch} {'replies' if task.batch > 1 else 'reply'}", task, decode_speed)
        for task in tasks
    ]


def table(ways: Sequence[str], found: Found, columns: Sequence[Column]) -> str:
    """Return a row for each way: medians with the lowest and highest, and ours against them."""
    head = [""]
    for column in columns:
        head += [column.title, "ratio"] if column.compared else [column.title]
    return markdown([tuple(head), *(row(way, found, columns) for way in ways)])


def row(way: str, found: Found, columns: Sequence[Column]) -> tuple[str, ...]:
    cells = [WAYS[way].title]
    for column in columns:
        values = found.values(way, column.task, column.figure)
        cells.append(spread(values))
        if column.compared:
            ours = found.values(OURS, column.task, column.figure)
            cells.append(ratio(ours, values))
    return tuple(cells)


def spread(values: Sequence[float]) -> str:
    """Return the median, with the lowest and highest."""
    if not values:
        return "-"
    middle, low, high = (short(of(values)) for of in (statistics.median, min, max))
    return f"{middle} ({low}-{high})" if len(values) > 1 else middle


def short(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    if not ours or not theirs:
        return "-"
    return f"{statistics.median(ours) / statistics.median(theirs):.2f}×"


def cost_table(found: dict[str, Cost]) -> str:
    """Return each precision's perplexity with its interval, and what it adds to float32's."""
    rows: list[tuple[str, ...]] = [("", "perplexity", "more than float32's", "in per cent")]
    base = found[FLOAT32].perplexity.value
    for precision, cost in found.items():
        value, added = cost.perplexity, cost.added
        first = precision, f"{value.value:.3f}{interval(value.low, value.high, '.2f')}"
        if precision == FLOAT32:
            rows.append((*first, "-", "-"))
            continue
        more = f"{added.value:+.4f}{interval(added.low, added.high, '+.4f')}"
        rows.append((*first, more, f"{added.value / base:+.3%}"))
    return markdown(rows)


def interval(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None or high is None else f" ({low:{form}} to {high:{form}})"


def failure_lines(found: Found) -> list[str]:
    """Return one line for each reason that a figure is missing."""
    reasons: dict[tuple[str, str], list[Task]] = {}
    for (way, task), reason in found.failures.items():
        reasons.setdefault((WAYS[way].title, reason), []).append(task)
    return [
        f"{title}, {', '.join(map(str, tasks))}: {reason}"
        for (title, reason), tasks in reasons.items()
    ]

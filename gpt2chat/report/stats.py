"""What `prepare --stats` prints: how long prompts and replies are, and where they come from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from gpt2chat.report.console import count, out, printable, say

if TYPE_CHECKING:
    from gpt2chat.core.data.shards import Lengths

BAR = 20
"""Cells of the longest bar."""
SOURCE_NAME = 28
"""Cells of a source's name."""
EIGHTHS = "▏▎▍▌▋▊▉█"
COLOURS = {"prompt": "cyan", "reply": "green"}
UNITS = {"sft": "samples", "preference": "pairs", "reference": "samples"}


def show_stats(
    lengths: "Mapping[str, Mapping[str, Lengths]]",
    window: int,
    picture: Path,
) -> None:
    """Print a histogram and the share of each source for all kinds that have rows.

    Args:
        lengths: By kind and split, as in the manifest.
        window: Longest sample, in tokens.
        picture: Where the same is drawn.
    """
    for kind, splits in lengths.items():
        split = "train" if any(_rows(splits.get("train", {})).values()) else "validation"
        sources = splits.get(split, {})
        rows = _rows(sources)
        if any(rows.values()):
            name = "training" if split == "train" else split
            heading = f"{kind}: {sum(rows.values()):,} {name} {UNITS[kind]}"
            out.print(Text(heading, style="bold"))
            out.print(_histogram(kind, sources, window), "", sep="\n")
            out.print(_shares(rows), "", sep="\n")
    say(f"Drawn: {picture}")


def bar(share: float, width: int, *, plain: bool = False) -> str:
    """Return a bar of `share` of `width` cells, in eighths; what is not nothing is seen."""
    eighths = max(round(share * width * 8), int(share > 0))
    if plain:
        return "#" * -(-eighths // 8)
    whole, part = divmod(eighths, 8)
    return EIGHTHS[-1] * whole + (EIGHTHS[part - 1] if part else "")


def bin_labels(window: int, bins: int) -> list[str]:
    """Return the tokens that each bar of a histogram stands for, such as `65-128`."""
    starts = [-(-window * number // bins) + 1 for number in range(bins)]
    labels = [f"{start:,}-{end - 1:,}" for start, end in zip(starts, starts[1:], strict=False)]
    return [*labels, f"{starts[-1]:,}+"]


def _histogram(kind: str, sources: "Lengths", window: int) -> Table:
    """Return a line for each sixteenth of the window; bars of both sides have one scale."""
    sides = {
        side: [sum(bars) for bars in zip(*(s[side] for s in sources.values()), strict=True)]
        for side in COLOURS
    }
    highest = max(max(bars) for bars in sides.values())
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("tokens", justify="right")
    for side in COLOURS:
        longer = ", the longer" if (kind, side) == ("preference", "reply") else ""
        table.add_column(side + longer, width=BAR, no_wrap=True)
        table.add_column("rows", justify="right", min_width=8)
    labels = bin_labels(window, len(sides["prompt"]))
    for label, *figures in zip(labels, *sides.values(), strict=True):
        cells = _cells(figures, highest)
        table.add_row(label, *cells)
    return table


def _cells(figures: Sequence[int], highest: int) -> list[Text]:
    cells: list[Text] = []
    for figure, colour in zip(figures, COLOURS.values(), strict=True):
        cells += [_drawn(figure / max(highest, 1), colour), Text(count(figure))]
    return cells


def _drawn(share: float, colour: str) -> Text:
    return Text(bar(share, BAR, plain=out.options.ascii_only), style=colour)


def _rows(sources: "Lengths") -> dict[str, int]:
    return {source: sum(sides["prompt"]) for source, sides in sources.items()}


def _shares(rows: Mapping[str, int]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("source", width=SOURCE_NAME, no_wrap=True, overflow="ellipsis")
    table.add_column("share", width=BAR, no_wrap=True)
    table.add_column("", justify="right", min_width=5)
    table.add_column("rows", justify="right", min_width=8)
    total = sum(rows.values())
    for source, number in sorted(rows.items(), key=lambda row: -row[1]):
        if number:
            drawn = _drawn(number / total, "magenta")
            table.add_row(Text(printable(source)), drawn, f"{number / total:.1%}", f"{number:,}")
    return table

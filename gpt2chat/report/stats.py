"""Print `prepare --stats`: lengths of prompts and replies, and the share of each source."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from gpt2chat.report.console import count, out, printable, say

if TYPE_CHECKING:
    from gpt2chat.core.data.shards import Lengths

BAR_CELLS = 20
"""Width of the longest bar."""
SOURCE_CELLS = 28
"""Width of a source's name."""
EIGHTHS = "▏▎▍▌▋▊▉█"
COLOURS = {"prompt": "cyan", "reply": "green"}
UNITS = {"sft": "samples", "preference": "pairs", "reference": "samples"}


def show_stats(
    lengths: "Mapping[str, Mapping[str, Lengths]]",
    window: int,
    picture: Path,
) -> None:
    """Print a histogram and the share of each source, for each kind of row that there is.

    Args:
        lengths: By kind and split, as in the manifest.
        window: Longest sample, in tokens.
        picture: File with the same figures, drawn.
    """
    for kind, splits in lengths.items():
        # OASST1's reference construction has a validation split only.
        split = "train" if any(_rows(splits.get("train", {})).values()) else "validation"
        sources = splits.get(split, {})
        rows = _rows(sources)
        total = sum(rows.values())
        if not total:
            continue
        name = "training" if split == "train" else split
        out.print(Text(f"{kind}: {total:,} {name} {UNITS[kind]}", style="bold"))
        out.print(_histogram(kind, sources, window), "", sep="\n")
        table = _table()
        table.add_column("source", width=SOURCE_CELLS, no_wrap=True, overflow="ellipsis")
        table.add_column("share", width=BAR_CELLS, no_wrap=True)
        table.add_column("", justify="right", min_width=5)
        table.add_column("rows", justify="right", min_width=8)
        for source, number in sorted(rows.items(), key=lambda row: -row[1]):
            if number:
                share = number / total
                drawn = _drawn(share, "magenta")
                table.add_row(Text(printable(source)), drawn, f"{share:.1%}", f"{number:,}")
        out.print(table, "", sep="\n")
    say(f"Drawn: {picture}")


def bar(share: float, width: int, *, plain: bool = False) -> str:
    """Return a bar of `share` of `width` cells, in eighths; at least one eighth unless it is 0."""
    eighths = max(round(share * width * 8), int(share > 0))
    if plain:  # ASCII has no part of a cell, so each part counts as a whole one
        return "#" * -(-eighths // 8)
    whole, part = divmod(eighths, 8)
    return EIGHTHS[-1] * whole + (EIGHTHS[part - 1] if part else "")


def bin_labels(window: int, bins: int) -> list[str]:
    """Return the token counts of each bar of a histogram, such as `65-128`."""
    starts = [-(-window * number // bins) + 1 for number in range(bins)]
    labels = [f"{start:,}-{end - 1:,}" for start, end in zip(starts, starts[1:], strict=False)]
    return [*labels, f"{starts[-1]:,}+"]


def _histogram(kind: str, sources: "Lengths", window: int) -> Table:
    """Return a row for each sixteenth of the window; prompts and replies share one scale."""
    totals = {
        part: [sum(bars) for bars in zip(*(s[part] for s in sources.values()), strict=True)]
        for part in COLOURS
    }
    highest = max(1, *(max(bars) for bars in totals.values()))
    table = _table()
    table.add_column(f"tokens, by {window / len(totals['prompt']):g}", justify="right")
    for part in COLOURS:
        longer = ", the longer" if (kind, part) == ("preference", "reply") else ""
        table.add_column(part + longer, width=BAR_CELLS, no_wrap=True)
        table.add_column("rows", justify="right", min_width=8)
    labels = bin_labels(window, len(totals["prompt"]))
    for label, *numbers in zip(labels, *totals.values(), strict=True):
        cells: list[Text] = []
        for number, colour in zip(numbers, COLOURS.values(), strict=True):
            cells += [_drawn(number / highest, colour), Text(count(number))]
        table.add_row(label, *cells)
    return table


def _drawn(share: float, colour: str) -> Text:
    return Text(bar(share, BAR_CELLS, plain=out.options.ascii_only), style=colour)


def _rows(sources: "Lengths") -> dict[str, int]:
    return {source: sum(lengths["prompt"]) for source, lengths in sources.items()}


def _table() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)

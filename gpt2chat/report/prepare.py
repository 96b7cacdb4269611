"""Print the result of `prepare`."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gpt2chat.report.console import count, out, printable, say, show_json

if TYPE_CHECKING:
    from gpt2chat.core.data.prepare import PrepareResult
    from gpt2chat.core.data.shards import Manifest

MOST_COLUMNS = 4
"""Most sources that are printed as columns next to each other."""
REASON_CELLS = 34
"""Width of a reason; a longer one takes a second line."""
NUMBER_CELLS = 9
LEFT_OUT = "left out"
REMARKS = "kept, with a remark"
UNUSED = "fields that were not used"

Counts = Mapping[str, Mapping[str, int]]
"""Numbers by source and reason."""


def show_prepare(result: "PrepareResult", *, json: bool) -> None:
    """Print the rows of each source, why records were left out, and the next step."""
    if json:
        show_json(asdict(result))
        return
    manifest = result.manifest
    out.print(_rows(manifest))
    show_reasons({LEFT_OUT: manifest.dropped, REMARKS: manifest.noted, UNUSED: manifest.unused})
    out.print()
    for kind in ("sft", "preference"):
        tokens = manifest.tokens[kind]["train"]
        if tokens["trained"]:
            line = f"{kind}: {tokens['trained']:,} tokens to train, {tokens['prompt']:,} of prompts"
            out.print(line)
    # Preference pairs alone are for a model that is fine-tuned already.
    has_pairs = manifest.rows("preference", "train")
    command = "orpo --model MODEL" if has_pairs else "eval --model MODEL"
    command = "sft" if manifest.rows("sft", "train") else command
    folder = str(result.out)
    option = "" if folder == "data" else f" --data {shlex.quote(folder)}"
    say(f"Written: {folder}. Next: gpt2chat {command}{option}")


def _rows(manifest: "Manifest") -> Table:
    """Return the number of rows by source and kind; sources without a row are last."""
    table = _table("source")
    table.add_column("for")
    for title in ("train", "validation"):
        table.add_column(title, justify="right", min_width=NUMBER_CELLS)
    counts = [(source, kind) for kind, sources in manifest.counts.items() for source in sources]
    # A source that gave no row at all is worth a line: it is often a mistake.
    empty = [(source, "·") for source in manifest.dropped if source not in dict(counts)]
    for source, kind in [*counts, *empty]:
        splits = manifest.counts.get(kind, {}).get(source, {})
        figures = (count(splits.get(split, 0)) for split in ("train", "validation"))
        table.add_row(Text(printable(source)), kind, *figures)
    return table


def show_reasons(sections: Mapping[str, Counts]) -> None:
    """Print how often each reason occurred, by source.

    Args:
        sections: Counts by title, such as `LEFT_OUT`.
    """
    tables = {
        title: {source: reasons for source, reasons in counts.items() if any(reasons.values())}
        for title, counts in sections.items()
    }
    sources = list(dict.fromkeys(source for counts in tables.values() for source in counts))
    if not sources:
        return
    reasons = {reason for counts in tables.values() for some in counts.values() for reason in some}
    width = min(REASON_CELLS, max(map(cell_len, (*reasons, *sections))))
    width += sum(2 + max(cell_len(printable(source)), NUMBER_CELLS) for source in sources)
    out.print()
    if len(sources) <= MOST_COLUMNS and width <= out.width:
        titles = [title for title, counts in tables.items() if counts]
        table = _table(titles[0], REASON_CELLS)
        for source in sources:
            table.add_column(
                Text(printable(source)), justify="right", min_width=NUMBER_CELLS, no_wrap=True
            )
        for title in titles:
            counts = tables[title]
            if title != titles[0]:
                table.add_row()
                table.add_row(title, style="bold")
            for reason in _by_number(counts):
                figures = [counts.get(source, {}).get(reason, 0) for source in sources]
                table.add_row(Text(printable(reason)), *map(count, figures))
            # Remarks have no total: a row may have two of them, but is left out for one reason.
            if title == LEFT_OUT and len(_by_number(counts)) > 1:
                totals = (sum(counts.get(source, {}).values()) for source in sources)
                table.add_row("total", *map(count, totals), style="bold")
        out.print(table)
        return
    # Too wide for columns, so each source has a block of its reasons.
    table = _table("", 60)
    table.show_header = False
    table.add_column("", justify="right", min_width=NUMBER_CELLS)
    for title, counts in tables.items():
        if counts and table.row_count:
            table.add_row()
        if counts:
            table.add_row(title, style="bold")
        for source, of_source in counts.items():
            total = count(sum(of_source.values())) if title == LEFT_OUT else ""
            table.add_row(_indented(2, source), total)
            for reason in _by_number({source: of_source}):
                table.add_row(_indented(4, reason), count(of_source[reason]), style="dim")
    out.print(table)


def _indented(cells: int, text: str) -> Padding:
    return Padding(Text(printable(text), overflow="fold"), (0, 0, 0, cells))


def _by_number(counts: Counts) -> list[str]:
    """Return all reasons, the most frequent first."""
    totals: dict[str, int] = {}
    for reasons in counts.values():
        for reason, number in reasons.items():
            totals[reason] = totals.get(reason, 0) + number
    return sorted(totals, key=lambda reason: -totals[reason])


def _table(title: str, width: int | None = None) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column(title, max_width=width, overflow="fold")
    return table

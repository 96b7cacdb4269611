"""Tables of results as plain text and as HTML, for `print` and for notebooks."""

from collections.abc import Iterable, Sequence
from html import escape


def text_table(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as aligned columns: the first to the left, the others to the right."""
    cells = list(rows)  # they are read twice
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def html_table(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as an HTML table whose first column has the headings."""
    body = (
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in others)}</tr>"
        for first, *others in rows
    )
    return f"<table>{''.join(body)}</table>"

"""Stills of a terminal as one SVG that moves by itself, and as an asciicast."""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple
from xml.sax.saxutils import escape

from pyte import Screen
from pyte.screens import Char

CELL, ROW, SIZE = 8.4, 19, 14
"""Pixels: the width and the height of a cell, and the letters'."""
EDGE, TITLE = 16, 36
"""Pixels: around the text, and above it for the title."""
LAST_STILL = 5.0
"""Seconds that the end stays before all begins again."""
PAPER, INK, FAINT, FRAME = "#1e222a", "#d8dee9", "#94a0b5", "#4c566a"
COLOURS = {
    "default": INK,
    "black": "#5b657a",
    "red": "#ef7a85",
    "green": "#a3be8c",
    "brown": "#ebcb8b",
    "blue": "#81a1c1",
    "magenta": "#c49ac0",
    "cyan": "#88c0d0",
    "white": "#eceff4",
}
FONT = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"


class Look(NamedTuple):
    """How a cell is shown."""

    ink: str
    ground: str
    bold: bool
    italic: bool


class Run(NamedTuple):
    """Cells of a row that look alike."""

    at: int
    cells: int
    text: str
    look: Look


Row = tuple[Run, ...]


class Still(NamedTuple):
    """The screen at one time, in seconds."""

    time: float
    rows: tuple[Row, ...]
    cursor: tuple[int, int] | None


def still(time: float, screen: Screen) -> Still:
    """Return what a screen shows."""
    lines = ([screen.buffer[y][x] for x in range(screen.columns)] for y in range(screen.lines))
    cursor = screen.cursor
    where = None if cursor.hidden else (min(cursor.x, screen.columns - 1), cursor.y)
    return Still(time, tuple(tuple(_runs(line)) for line in lines), where)


def _runs(cells: Sequence[Char]) -> Iterator[Run]:
    at = 0
    for look, group in itertools.groupby(cells, _look):
        part = [cell.data for cell in group]
        first, last = 0, len(part)
        if look.ground == PAPER:  # blanks that nobody sees
            first = next((at for at, char in enumerate(part) if char != " "), last)
            last -= next((at for at, char in enumerate(reversed(part)) if char != " "), 0)
        if first < last:
            yield Run(at + first, last - first, "".join(part[first:last]), look)
        at += len(part)


def _look(cell: Char) -> Look:
    ink = COLOURS.get(cell.fg, f"#{cell.fg}")
    ground = PAPER if cell.bg == "default" else COLOURS.get(cell.bg, f"#{cell.bg}")
    if cell.blink and cell.fg == "default":  # our terminal's sign for faint
        ink = FAINT
    if cell.reverse:
        # A bar of full light below a dark text would be all that one sees.
        ink, ground = (INK, FRAME) if cell.fg == cell.bg == "default" else (ground, ink)
    return Look(ink, ground, cell.bold, cell.italics)


def thinned(stills: Iterable[Still], seconds: float) -> list[Still]:
    """Return the stills that stay for so long, or are the last in that time."""
    kept: list[Still] = []
    for entry in stills:
        if kept and entry[1:] == kept[-1][1:]:
            continue
        if kept and entry.time - kept[-1].time < seconds:
            kept[-1] = entry._replace(time=kept[-1].time)
        else:
            kept.append(entry)
    return kept


def svg(stills: Sequence[Still], title: str, columns: int, lines: int) -> str:
    """Return a picture that shows the stills one after the other, for ever.

    They hang below each other, and the strip jumps by one screen at a time. Where nothing is to
    move, the last one stands.
    """
    width, height = round(columns * CELL), lines * ROW
    outer, whole = width + 2 * EDGE, height + TITLE + EDGE
    names: dict[Row, str] = {}
    strip = [_frame(entry, names, at * height) for at, entry in enumerate(stills)]
    rows = [f'<g id="{name}">{"".join(map(_run, row))}</g>' for row, name in names.items()]
    dots = (f'<circle cx="{EDGE + 6 + 18 * at}" cy="18" r="5" fill="{FRAME}"/>' for at in range(3))
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {outer} {whole}" xml:space="preserve">
<title>{escape(title)}</title>
<style>
text{{font:{SIZE}px {FONT};fill:{INK};white-space:pre}}
.f{{fill:{FAINT}}}.b{{font-weight:bold}}.i{{font-style:italic}}
{_motion(stills, height)}
</style>
<defs>
<rect id="cursor" width="{CELL}" height="{ROW - 2}" y="1" fill="{INK}" opacity=".7"/>
{"".join(rows)}
</defs>
<rect x=".5" y=".5" width="{outer - 1}" height="{whole - 1}" rx="9" fill="{PAPER}" \
stroke="{FRAME}"/>
{"".join(dots)}<text x="50%" y="23" text-anchor="middle" class="f">{escape(title)}</text>
<svg x="{EDGE}" y="{TITLE}" width="{width}" height="{height}"><g class="film">
{"".join(strip)}</g></svg>
</svg>
"""


def _motion(stills: Sequence[Still], height: int) -> str:
    begin = stills[0].time
    whole = stills[-1].time - begin + LAST_STILL
    jumps = [
        f"{100 * (entry.time - begin) / whole:.3f}%{{transform:translateY({-at * height}px)}}"
        for at, entry in enumerate(stills)
    ]
    end = f"transform:translateY({-(len(stills) - 1) * height}px)"
    return (
        f".film{{{end};animation:film {whole:.2f}s step-end infinite}}\n"
        f"@media(prefers-reduced-motion:reduce){{.film{{animation:none}}}}\n"
        f"@keyframes film{{{''.join(jumps)}100%{{{end}}}}}"
    )


def _frame(entry: Still, names: dict[Row, str], top: int) -> str:
    parts: list[str] = []
    for y, row in enumerate(entry.rows):
        if row:
            name = names.setdefault(row, f"r{len(names)}")
            parts.append(f'<use href="#{name}" y="{top + y * ROW}"/>')
    if entry.cursor:
        x, y = entry.cursor
        parts.append(f'<use href="#cursor" x="{x * CELL:.1f}" y="{top + y * ROW}"/>')
    return "".join(parts) + "\n"


def _run(run: Run) -> str:
    x, width = f"{run.at * CELL:.1f}", f"{run.cells * CELL:.1f}"
    ground = ""
    if run.look.ground != PAPER:
        ground = f'<rect x="{x}" width="{width}" height="{ROW}" fill="{run.look.ground}"/>'
    if not run.text.strip():
        return ground
    kinds = {"f": run.look.ink == FAINT, "b": run.look.bold, "i": run.look.italic}
    names = " ".join(name for name, is_so in kinds.items() if is_so)
    colour = f' class="{names}"' if names else ""
    if run.look.ink not in (INK, FAINT):
        colour += f' style="fill:{run.look.ink}"'
    # A font whose cells are narrower or wider is spaced until the columns are right.
    return f'{ground}<text x="{x}" y="14" textLength="{width}"{colour}>{escape(run.text)}</text>'


def asciicast(
    events: Iterable[tuple[float, str]], when: datetime, title: str, columns: int, lines: int
) -> str:
    """Return a recording in asciinema's format, version 2."""
    header = {
        "version": 2,
        "width": columns,
        "height": lines,
        "timestamp": int(when.timestamp()),
        "title": title,
        "env": {"TERM": "xterm-256color"},
    }
    rows = [[round(time, 3), "o", text] for time, text in events if text]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (header, *rows))

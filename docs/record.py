"""Draw chat.svg, a chat in a terminal: python docs/record.py --model runs/orpo --other runs/sft

The program runs in a pseudo-terminal and is typed to; the picture is what is then on its screen.
"""

import argparse
import io
import itertools
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from pyte.screens import Char
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.style import Style
from rich.text import Text

sys.path.insert(1, str(Path(__file__).parent.parent))

from tests.terminal import CTRL_C, ENTER, Terminal

PICTURE = Path(__file__).with_name("chat.svg")
COLUMNS, LINES = 84, 70


def talk(terminal: Terminal, other: str, seed: int) -> None:
    """Have the conversation; `other` is the model to compare."""
    terminal.wait("$")
    number = terminal.prompts + 1
    terminal.press(f"gpt2chat chat --seed {seed} --max-new-tokens 60", ENTER)
    terminal.wait_for_prompt(number)
    terminal.enter("What can I cook with potatoes?")
    terminal.enter("/context")
    number = terminal.prompts + 1
    terminal.begin("Tell me a long story about a potato.")
    time.sleep(0.1)
    terminal.press(CTRL_C)
    terminal.wait_for_prompt(number)
    terminal.press(f"/compare {other}", ENTER)
    terminal.wait("Which is better?")
    terminal.enter("a")


def look(cell: Char) -> Style:
    """Return the style of a cell."""
    colour = None if cell.fg == "default" else cell.fg.replace("brown", "yellow")
    # tests/terminal.py keeps faint text as blinking, since pyte does not know it.
    return Style(
        color=colour, bold=cell.bold, italic=cell.italics, reverse=cell.reverse, dim=cell.blink
    )


def picture(terminal: Terminal) -> str:
    """Return what is on the screen as an SVG that needs no font and no file from elsewhere."""
    console = Console(file=io.StringIO(), record=True, width=COLUMNS, force_terminal=True)
    rows = terminal.rows
    prompt = max(y for y, row in enumerate(rows) if row.startswith(">"))
    for y, row in enumerate(rows):
        if y > prompt and not row:
            continue  # the screen is taller than the picture: the meter is at its bottom
        line = Text()
        cells = [terminal.screen.buffer[y][x] for x in range(COLUMNS)]
        for style, group in itertools.groupby(cells, look):
            line.append("".join(cell.data for cell in group), style)
        console.print(line, soft_wrap=True)
    no_web_font = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    no_comment = re.sub(r"<!--.*?-->", "", no_web_font)
    return console.export_svg(title="gpt2chat chat", code_format=no_comment, unique_id="chat")


def main() -> None:
    """Record the chat and write the picture."""
    parser = argparse.ArgumentParser(description="Draw a short chat for docs/chat.md.")
    parser.add_argument("--model", type=Path, required=True, help="a run folder")
    parser.add_argument("--other", type=Path, required=True, help="an older one, to compare with")
    parser.add_argument("--seed", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Links in an empty folder: the chat shows nothing else, and writes nothing to the runs.
        runs = Path(folder, "runs")
        runs.mkdir()
        for run in (given.model.resolve(), given.other.resolve()):
            (runs / run.name).symlink_to(run, target_is_directory=True)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        terminal = Terminal(
            Path(folder), "-i", command=("sh",), columns=COLUMNS, lines=LINES,
            environment={"PATH": path, "PS1": "$ ", "ENV": ""},
        )  # fmt: skip
        talk(terminal, f"runs/{given.other.resolve().name}", given.seed)
        PICTURE.write_text(picture(terminal), encoding="utf-8")
        terminal.close()


if __name__ == "__main__":
    main()

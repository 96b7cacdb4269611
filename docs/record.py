"""Record a short chat for docs/chat.md: python docs/record.py --model runs/orpo --other runs/sft

The real program runs in a terminal and is typed to. What came on the screen is written to
chat.cast, for asciinema's player, and to chat.svg, which moves by itself in a browser.
"""

import argparse
import codecs
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pexpect

sys.path.insert(1, str(Path(__file__).parent.parent))

from film import Still, asciicast, still, svg, thinned

from tests.terminal import CTRL_C, ENTER, Terminal

DOCS = Path(__file__).parent
COLUMNS, LINES = 84, 26
LONGEST_PAUSE = 2.5
"""Seconds: a longer silence, such as while a model loads, is shortened to this."""
SHORTEST_STILL = 0.1
"""Seconds: what changes faster is one still."""


class Recorder(Terminal):
    """A terminal that notes what comes, and when."""

    def __init__(self, folder: Path):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        super().__init__(
            folder, "-i", command=("sh",), environment={"PATH": path, "PS1": "$ ", "ENV": ""},
            columns=COLUMNS, lines=LINES,
        )  # fmt: skip
        self.noted: list[tuple[float, bytes]] = []
        self.stills: list[Still] = []
        self._now, self._last = 0.0, time.monotonic()
        self._fingers = random.Random(1)

    def read(self, timeout: float = 120) -> bytes:
        """Note what comes."""
        data = super().read(timeout)
        now = time.monotonic()
        self._now += min(now - self._last, LONGEST_PAUSE)
        self._last = now
        self.noted.append((self._now, data))
        self.stills.append(still(self._now, self.screen))
        return data

    def look(self, seconds: float) -> None:
        """Read what comes in some seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                self.read(left)
            except pexpect.TIMEOUT:
                return

    def write(self, text: str) -> None:
        """Type as people do, look at it, and press Enter."""
        for char in text:
            self.press(char)
            self.look(self._fingers.uniform(0.03, 0.11))
        self.look(0.7)
        self.press(ENTER)

    def say(self, text: str, seconds: float = 2) -> None:
        """Type a line, wait for all that it brings, and read that."""
        number = self.prompts + 1
        self.write(text)
        self.wait_for_prompt(number)
        self.look(seconds)

    def events(self) -> Iterator[tuple[float, str]]:
        """Yield what came as text; half a character waits for its other half."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        for when, data in self.noted:
            yield when, decoder.decode(data)


def talk(terminal: Recorder, other: str, seed: int) -> None:
    """Have the conversation; `other` is the model to compare."""
    terminal.wait("$")
    terminal.look(0.5)
    number = terminal.prompts + 1
    terminal.write(f"gpt2chat chat --seed {seed} --max-new-tokens 80")
    terminal.wait_for_prompt(number)
    terminal.look(2)
    terminal.say("What can I cook with potatoes?", 4)
    terminal.say("/context", 6)
    number = terminal.prompts + 1
    terminal.write("Tell me a long story about a potato.")
    terminal.wait_until(lambda: terminal.used is None and len(terminal.rows[-1]) in range(10, 30))
    terminal.press(CTRL_C)
    terminal.wait_for_prompt(number)
    terminal.look(2)
    number = terminal.prompts + 1
    terminal.write(f"/compare {other}")
    terminal.wait("Which is better?")
    terminal.look(4)
    # The models answer in a drawn order; whoever types here likes it short.
    first, second, end = (terminal.rows.index(row) for row in ("A", "B", terminal.rows[-1]))
    terminal.write("a" if second - first <= end - second else "b")
    terminal.wait_for_prompt(number)
    terminal.look(3)
    terminal.write("bye")
    terminal.wait_until(lambda: terminal.rows[-1] == "$")


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description="Record a short chat for docs/chat.md.")
    parser.add_argument("--model", type=Path, required=True, help="a run folder")
    parser.add_argument("--other", type=Path, required=True, help="an older one, to compare with")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of the two files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Links in an empty folder: nothing else is shown, and nothing is written to the runs.
        runs = Path(folder, "runs")
        runs.mkdir()
        for run in (given.model.resolve(), given.other.resolve()):
            (runs / run.name).symlink_to(run, target_is_directory=True)
        terminal = Recorder(Path(folder))
        talk(terminal, f"runs/{given.other.resolve().name}", given.seed)
        terminal.close()
    title = "gpt2chat chat"
    stills = thinned(terminal.stills, SHORTEST_STILL)
    cast = asciicast(terminal.events(), datetime.now(), title, COLUMNS, LINES)
    (given.out / "chat.cast").write_text(cast, encoding="utf-8")
    (given.out / "chat.svg").write_text(svg(stills, title, COLUMNS, LINES), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Measure the waits in `gpt2chat chat`: first prompt, first word after Enter, exit.

    python benchmarks/latency.py
    python benchmarks/latency.py --model runs/orpo --turns 40

Runs the real program in a pseudo-terminal and reads its screen. Each turn types a message of some
30 tokens; the window is full after some turns, and from then on every turn moves an exchange out.
Half of the turns are sent as soon as the prompt appears, half after a pause as long as a person's,
during which the program computes the beginning of the next prompt. `drawn` is GPT-2 124M's shape
with random weights: the time of a token does not depend on the values. Prints a table and writes it
into docs/measurements.md; with --no-write it only prints.
"""

import argparse
import datetime
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from page import commit, cpu_name, page_around, write_block
from transformers import GPT2Config, GPT2LMHeadModel

sys.path.insert(0, str(Path(__file__).parent.parent))  # for the tests' terminal

from gpt2chat.core.model.checkpoint import save_model
from gpt2chat.core.model.load import set_ids
from gpt2chat.core.text.tokens import VOCAB, WINDOW
from tests.terminal import CTRL_D, ENTER, Terminal

DRAWN = "drawn"
MESSAGE = (
    "Tell me a little more about number {} on the list, why it matters to people who live by the "
    "sea, and what they eat there in winter."
)
LIMIT = ["--max-new-tokens", "96", "--no-markdown"]


def start_and_end(folder: Path, model: str) -> tuple[float, float]:
    """Return the seconds from the start to the first prompt, and from Ctrl-D to the end."""
    begun = time.perf_counter()
    terminal = Terminal(folder, "chat", "--model", model, *LIMIT)
    terminal.wait_for_prompt(1)
    seconds = time.perf_counter() - begun
    terminal.enter("Hello")
    ended = time.perf_counter()
    terminal.leave(CTRL_D)
    return seconds, time.perf_counter() - ended


def one_answer(folder: Path, model: str) -> float:
    """Return the seconds that `-p` takes for a reply of 16 tokens."""
    command = [sys.executable, "-m", "gpt2chat", "chat", "--model", model, "-p", "Hello"]
    begun = time.perf_counter()
    subprocess.run(
        [*command, "--max-new-tokens", "16"], cwd=folder, capture_output=True, check=True
    )
    return time.perf_counter() - begun


def waits(folder: Path, model: str, turns: int, pause: float) -> list[tuple[int, float, float]]:
    """Chat, and return for each turn the tokens used, the pause, and the seconds to the reply."""
    terminal = Terminal(folder, "chat", "--model", model, *LIMIT)
    terminal.wait_for_prompt(1)
    terminal.wait_until(lambda: "loading" not in terminal.rows[-1], "loaded model")
    found: list[tuple[int, float, float]] = []
    for turn in range(turns):
        rest = pause if turn % 2 else 0.0
        number, used = terminal.prompts + 1, terminal.used or 0
        terminal.press(MESSAGE.format(turn))
        read_for(terminal, rest)
        begun = time.perf_counter()
        terminal.press(ENTER)
        terminal.wait_until(lambda: answered(terminal), "reply")
        found.append((used, rest, time.perf_counter() - begun))
        terminal.wait_for_prompt(number)
        terminal.clear()
    terminal.leave(CTRL_D)
    return found


def answered(terminal: Terminal) -> bool:
    """Return whether the message is sent and a word of the reply is below it."""
    last = terminal.rows[-1]
    return terminal.used is None and not last.endswith(("in winter.", "left the window."))


def read_for(terminal: Terminal, seconds: float) -> None:
    """Read the program's output for some time."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            terminal.read(timeout=left)
        except Exception:  # pexpect's TIMEOUT: nothing came
            return


def drawn_folder(folder: Path) -> str:
    """Save a model of GPT-2 124M's shape with random weights."""
    torch.manual_seed(0)
    save_model(set_ids(GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB))), folder)
    return str(folder)


def spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def table(
    rows: list[tuple[str, list[float]]], turns: Sequence[tuple[int, float, float]], full: int
) -> str:
    for pause in sorted({pause for _, pause, _ in turns}, reverse=True):
        what = f"after {pause:.0f} s of typing" if pause else "sent at once"
        for name, some in (
            ("window not full", [wait for used, at, wait in turns if at == pause and used < full]),
            ("window full", [wait for used, at, wait in turns if at == pause and used >= full]),
        ):
            rows.append((f"Enter to first word, {name}, {what}", some))
    lines = [f"| {name} | {spread(some)} | {len(some)} |" for name, some in rows]
    return "\n".join(["| | seconds | times |", "|---|---|---|", *lines])


def main() -> None:
    """Start the program several times, chat with it, and print the waits."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=DRAWN, help=f"{DRAWN}, starter, or a folder")
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--turns", type=int, default=24)
    parser.add_argument("--pause", type=float, default=3.0, help="seconds")
    parser.add_argument("--no-write", dest="write", action="store_false", help="only print")
    asked: Any = parser.parse_args()
    around = page_around("latency.py") if asked.write else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = drawn_folder(folder / "model") if asked.model == DRAWN else asked.model
        start_and_end(folder, model)  # compiles, and reads files from the disk
        pairs = [start_and_end(folder, model) for _ in range(asked.starts)]
        starts, ends = (list(some) for some in zip(*pairs, strict=True))
        rows = [
            ("shell to first prompt", starts),
            ("Ctrl-D to shell", ends),
            ("`chat -p`, 16 tokens, shell to shell", [
                one_answer(folder, model) for _ in range(asked.starts)
            ]),
        ]  # fmt: skip
        turns = waits(folder, model, asked.turns, asked.pause)
    command = shlex.join(["python", "benchmarks/latency.py", *sys.argv[1:]])
    kind = "GPT-2 124M's shape with drawn weights" if asked.model == DRAWN else asked.model
    text = "\n".join(
        [
            f"`{command}`, {datetime.datetime.now(datetime.UTC):%Y-%m-%d, %H:%M} UTC;",
            f"{cpu_name()}; torch {version('torch')}, gpt2chat {commit()}. Model: {kind}.",
            "Medians, lowest and highest in brackets. The window counts as full if fewer than",
            "250 tokens are free before the message, which has some 30; the reply has at most 96.",
            "",
            table(rows, turns, full=WINDOW - 250),
        ]
    )
    print(text)
    if around:
        write_block(around, text)


if __name__ == "__main__":
    main()

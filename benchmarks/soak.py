"""Chat for hundreds of turns in a real terminal, and print how much memory the program takes.

    python benchmarks/soak.py --model runs/orpo --turns 500

The real program runs in an empty folder, with its prompt, its history and its saved chats.
Each line has the turn, the tokens in the window, MiB of memory, and seconds per turn.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.terminal import CTRL_D, Terminal

MIB = 1 << 20
MESSAGES = (
    "Give me three tips to sleep better.",
    "Why is the sky blue?",
    "Write a short story about a cat and a river.",
    "What is the difference between a plant and an animal?",
    "/retry",
    "And what else is there to say about that?",
    "/context",
)


def watched(terminal: Terminal, turns: int, every: int) -> Iterator[tuple[int, int, float, float]]:
    """Chat, and yield the turn, tokens in the window, MiB, and seconds per turn at intervals."""
    process = psutil.Process(terminal.child.pid)
    begun = time.monotonic()
    for turn, message in zip(range(1, turns + 1), itertools.cycle(MESSAGES), strict=False):
        terminal.enter(message)
        if turn % every == 0:
            seconds = (time.monotonic() - begun) / every
            yield turn, terminal.used or 0, process.memory_info().rss / MIB, seconds
            begun = time.monotonic()


def main() -> None:
    """Print a row of the table at intervals."""
    parser = argparse.ArgumentParser(description="Chat for hundreds of turns, watch the memory.")
    parser.add_argument("--model", default="starter", help="what gpt2chat chat takes")
    parser.add_argument("--turns", type=int, default=500)
    parser.add_argument("--every", type=int, default=50, help="turns between two rows")
    parser.add_argument("--max-new-tokens", default="256", help="longest reply")
    given = parser.parse_args()
    folder = Path(given.model)
    model = str(folder.resolve()) if folder.is_dir() else given.model
    with tempfile.TemporaryDirectory() as empty:
        flags = ("--model", model, "--max-new-tokens", given.max_new_tokens)
        terminal = Terminal(Path(empty), "chat", *flags)
        terminal.wait_for_prompt(1)
        print("turn  tokens      MiB  s/turn")
        for turn, tokens, memory, seconds in watched(terminal, given.turns, given.every):
            print(f"{turn:4}  {tokens:6,}  {memory:7,.1f}  {seconds:6.2f}", flush=True)
        print("exit code", terminal.leave(CTRL_D))


if __name__ == "__main__":
    main()

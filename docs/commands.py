"""Write docs/commands.md: the help text of every subcommand, as the program prints it."""

import os
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("commands.md")
COMMANDS = ("", "prepare", "sft", "orpo", "eval", "chat", "serve", "telegram", "export", "runs")

HEAD = """\
# Commands

Written by `make docs` from the program's own `--help`; a test holds the two together.
"""


def help_text(command: str) -> str:
    """Return what `gpt2chat COMMAND --help` prints, 100 columns wide."""
    arguments = [argument for argument in (command, "--help") if argument]
    process = subprocess.run(
        [sys.executable, "-m", "gpt2chat", *arguments],
        env={**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    text = process.stdout.replace("python -m gpt2chat", "gpt2chat")
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for command in COMMANDS:
        name = f"gpt2chat {command}".strip()
        parts.append(f"## {name}\n\n```text\n{help_text(command)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

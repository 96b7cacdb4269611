"""The chat in the terminal: keys, prompt, completion; the only importer of prompt_toolkit."""

from gpt2chat.repl.loop import run

__all__ = ["run"]

"""Run the chat at a prompt, with keys, history and completion; only this imports prompt_toolkit."""

from gpt2chat.repl.loop import run

__all__ = ["run"]

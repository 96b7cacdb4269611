"""Compute the beginning of the next prompt while the user types."""

from collections.abc import Generator
from contextlib import contextmanager
from threading import Event

from gpt2chat.dialogue.dialogue import Dialogue


@contextmanager
def computing_ahead(dialogue: Dialogue) -> Generator[None]:
    """Let the model compute the known part of the next prompt until the block ends.

    The engine keeps the results, so after Enter only the message remains to be computed. A chat
    with a seed computes nothing ahead: rounding depends on where a prompt is split, and a
    repeatable chat must not depend on how fast its user types.
    """
    chat = dialogue.chat
    if chat.sampling.seed is not None:
        yield
        return
    stop = Event()
    loading = dialogue.models.loading(dialogue.models.first)

    def compute() -> None:
        generator = loading.result().generator
        if not stop.is_set():
            ids = chat.session.beginning(chat.sampling.max_new_tokens)
            generator.warm(ids, stop.is_set)

    done = dialogue.background.do(compute)
    try:
        yield
    finally:
        stop.set()
        if loading.done():  # otherwise the thread waits for the model, and the user must not
            done.wait()

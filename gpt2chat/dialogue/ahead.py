"""The beginning of the next prompt, computed while the user types."""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2chat.dialogue.dialogue import Dialogue


@contextmanager
def computing_ahead(dialogue: "Dialogue") -> Generator[None]:
    """Let the model that answers compute what is known of the next prompt, until the block ends.

    What it has computed by then is kept, so after Enter only the message is left. Not with a seed:
    rounding depends on where a prompt is cut, and a chat that is to be the same again must not
    depend on how fast its user types.
    """
    if dialogue.sampling.seed is not None:
        yield
        return
    ended = Event()
    loading = dialogue.models.loading(dialogue.models.first)

    def compute() -> None:
        # What goes wrong here goes wrong again, and is told, where the reply is asked for.
        with suppress(Exception):
            generator = loading.result().generator
            if not ended.is_set():
                ids = dialogue.session.beginning(dialogue.sampling.max_new_tokens)
                generator.warm(ids, ended.is_set)

    thread = Thread(target=compute, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        if loading.done():
            thread.join()

"""The beginning of the next prompt, computed while the user types."""

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING

from gpt2chat.threads import work_beside

if TYPE_CHECKING:
    from gpt2chat.dialogue.dialogue import Dialogue


class Background:
    """One thread for all work beside the prompt."""

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[Callable[[], None], Event]] = SimpleQueue()
        self._begun = False

    def do(self, work: Callable[[], None]) -> Event:
        """Do some work after what is being done; return what is set at its end."""
        if not self._begun:
            work_beside(self._do_all)
            self._begun = True
        done = Event()
        self._work.put((work, done))
        return done

    def _do_all(self) -> None:
        while True:
            work, done = self._work.get()
            # What goes wrong here goes wrong again, and is told, where the reply is asked for.
            with suppress(BaseException):
                work()
            done.set()


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
        generator = loading.result().generator
        if not ended.is_set():
            ids = dialogue.session.beginning(dialogue.sampling.max_new_tokens)
            generator.warm(ids, ended.is_set)

    done = dialogue.background.do(compute)
    try:
        yield
    finally:
        ended.set()
        if loading.done():
            done.wait()

"""Load the models of a chat in the background, one after the other."""

import os.path
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING

from gpt2chat.core.errors import Gpt2ChatError
from gpt2chat.threads import work_beside

if TYPE_CHECKING:
    from gpt2chat.core.chat.model import ChatModel


class Models:
    """The models that the user named. The first answers, and is loaded first.

    They are loaded while the user types.
    """

    def __init__(self, names: Iterable[str], load: Callable[[str], "ChatModel"]):
        self._load = load
        self._loading: dict[str, Future[ChatModel]] = {}
        self._queue: SimpleQueue[str] = SimpleQueue()
        for name in names:
            self.add(name)
        work_beside(self._load_all)

    @property
    def names(self) -> list[str]:
        """Their names, the one that answers first."""
        return list(self._loading)

    @property
    def first(self) -> str:
        """The name of the one that answers."""
        return self.names[0]

    def add(self, name: str) -> None:
        """Load another model after those before it; not the same one twice."""
        if self.find(name):
            return
        future: Future[ChatModel] = Future()
        # A running future cannot be cancelled, so a prompt that ends leaves the loading alone.
        future.set_running_or_notify_cancel()
        self._loading[name] = future
        self._queue.put(name)

    def find(self, name: str) -> str | None:
        """Return the model of this name, or of the same folder by another path, if any."""
        place = _place(name)
        return next((known for known in self._loading if _place(known) == place), None)

    def remove(self, name: str) -> None:
        """Forget a model, such as one that cannot be loaded."""
        self._loading.pop(name, None)

    def take_failed(self) -> list[Gpt2ChatError]:
        """Forget the models after the first that could not be loaded, and return why."""
        errors: list[Gpt2ChatError] = []
        for name in self.names[1:]:
            loading = self._loading[name]
            error = loading.exception() if loading.done() else None
            if isinstance(error, Gpt2ChatError):
                errors.append(error)
                self.remove(name)
        return errors

    def loading(self, name: str) -> "Future[ChatModel]":
        """Return the future of a model, which has the error if it cannot be loaded."""
        return self._loading[name]

    def _load_all(self) -> None:
        while True:
            name = self._queue.get()
            future = self._loading.get(name)
            if future is None:
                continue
            try:
                future.set_result(self._load(name))
            except BaseException as error:  # for the main thread to raise
                future.set_exception(error)


def _place(name: str) -> str:
    return os.path.realpath(name) if os.path.isdir(name) else name

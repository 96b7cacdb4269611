"""Load the models of a chat in the background, one after the other."""

import os.path
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING

from gpt2chat.threads import start_thread

if TYPE_CHECKING:
    from gpt2chat.core.chat.model import ChatModel


class Models:
    """The models of a chat, which load while the user types. The first loads first, and answers."""

    def __init__(self, names: Iterable[str], load: Callable[[str], "ChatModel"]):
        self._load = load
        self._loading: dict[str, Future[ChatModel]] = {}
        self._queue: SimpleQueue[str] = SimpleQueue()
        for name in names:
            self.add(name)
        # One thread: two models that load at once would compete for the cores, and the first one is
        # what the user waits for.
        start_thread(self._load_all)

    @property
    def names(self) -> list[str]:
        """Names of the models; the first is of the one that answers."""
        return list(self._loading)

    @property
    def first(self) -> str:
        """Name of the model that answers."""
        return self.names[0]

    def add(self, name: str) -> None:
        """Load another model after those before it; do nothing if it is one of them."""
        if self.find(name):
            return
        future: Future[ChatModel] = Future()
        # A running future cannot be cancelled, so a prompt that ends does not stop the loading.
        future.set_running_or_notify_cancel()
        self._loading[name] = future
        self._queue.put(name)

    def find(self, name: str) -> str | None:
        """Return the name of this model, if it is loaded; another path to its folder counts."""
        place = _real_path(name)
        return next((known for known in self._loading if _real_path(known) == place), None)

    def remove(self, name: str) -> None:
        """Forget a model, such as one that cannot be loaded."""
        self._loading.pop(name, None)

    def loading(self, name: str) -> "Future[ChatModel]":
        """Return the future of a model, which raises the error if it cannot be loaded."""
        return self._loading[name]

    def _load_all(self) -> None:
        while True:
            name = self._queue.get()
            future = self._loading.get(name)
            if future is None:
                continue  # it was removed while it waited
            try:
                future.set_result(self._load(name))
            except BaseException as error:  # the main thread raises it
                future.set_exception(error)


def _real_path(name: str) -> str:
    return os.path.realpath(name) if os.path.isdir(name) else name

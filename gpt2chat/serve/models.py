"""Hold the models that a server offers, each loaded at its first request."""

import dataclasses
import threading
import time
from typing import Any

from gpt2chat.core.config.serve import ServeConfig
from gpt2chat.core.model.names import ModelFolder, resolve_model
from gpt2chat.serve.answers import Engine
from gpt2chat.serve.errors import ApiError


class Models:
    """The models of a server by name. The first one answers requests that name none.

    Raises:
        CheckpointError: A name is not that of a GPT-2 model.
        NetworkError: A model cannot be downloaded from the Hub.
    """

    def __init__(self, settings: ServeConfig, names: list[str]):
        self._settings = settings
        # Resolving reads only small files, so a mistyped name is reported before the server runs.
        self._folders: dict[str, ModelFolder] = {name: resolve_model(name) for name in names}
        self._loaded: dict[str, Engine] = {}
        self._lock = threading.Lock()
        self._started = int(time.time())

    def window(self, name: str | None) -> int:
        """Return the number of positions of a model; see `pick`."""
        return self._folders[self.pick(name)].window

    def pick(self, name: str | None) -> str:
        """Return the name of the model that a request asks for, the first one by default.

        Raises:
            ApiError: There is no such model.
        """
        if name is None:
            return next(iter(self._folders))
        if name not in self._folders:
            raise ApiError(
                f"There is no model {name[:80]!r}. There are {', '.join(self._folders)}.",
                404,
                param="model",
                code="model_not_found",
            )
        return name

    def load(self, name: str) -> Engine:
        """Return the engine of a model. Only the first call takes time.

        Raises:
            CheckpointError: Its files are damaged.
            HardwareError: The device does not support the precision, or lacks the memory.
        """
        # Requests load in threads. A second one for the same model waits, and then finds it.
        with self._lock:
            if name not in self._loaded:
                # It imports torch, so it waits until the server runs.
                from gpt2chat.core.generation.loading import load_generator

                asked = self._settings
                generator = load_generator(
                    name,
                    asked.device,
                    asked.precision,
                    asked.compile,
                    slots=asked.slots,
                    # The next turn of a chat begins with what an ended reply left in its slot.
                    kept=asked.slots,
                )
                self._loaded[name] = Engine(generator)
            return self._loaded[name]

    @property
    def names(self) -> list[str]:
        """The names of all models, the default one first."""
        return list(self._folders)

    @property
    def loaded(self) -> dict[str, Engine]:
        """The engines of the models that have been asked for."""
        # A copy, since a thread may add a model while the caller goes through them.
        return dict(self._loaded)

    def as_dict(self, name: str) -> dict[str, Any]:
        """Return one model as `/v1/models` reports it."""
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "gpt2chat",
            "window": self._folders[name].window,
            "default": name == self.pick(None),
            "sampling": dataclasses.asdict(self._settings.sampling),
        }

"""Run a bot against the Bot API server of the tests, in a thread or in a process of its own.

Its model repeats what it is told. Everything else is real: the chats, the window, the template, the
file of the bot's state, HTTP.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.utils.backoff import BackoffConfig

from gpt2chat.cli import main
from gpt2chat.core.chat.model import ChatModel
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.config.telegram import TelegramConfig
from gpt2chat.core.generation.generate import Generator
from gpt2chat.core.generation.reply import ReplyStream
from gpt2chat.core.generation.sampling import Choice
from gpt2chat.core.text.tokens import EOT_ID, decode, encode_text
from gpt2chat.telegram.bot import TelegramBot
from gpt2chat.telegram.outgoing import Timing
from gpt2chat.telegram.run import run
from gpt2chat.telegram.store import Store
from tests.helpers import tiny_model
from tests.telegram_server import LONG, TOKEN

FAST = Timing(
    edits=0.0,
    drafts=0.02,
    poll=20,
    backoff=BackoffConfig(min_delay=0.01, max_delay=0.1, factor=2.0, jitter=0.0001),
)


class Parrot(Generator):
    """A generator whose reply to "Hi" is "Hi you said.", or what `answers` makes of it."""

    def __init__(
        self, answers: Callable[[str, Sampling], str] = lambda text, _: f"{text} you said."
    ):
        super().__init__(tiny_model(), torch.device("cpu"), "fp32")
        self.answers: Callable[[str, Sampling], str] = answers
        self.prompts: list[list[int]] = []
        """The prompts of all replies."""
        self.gate: Callable[[int], object] = lambda _: None
        """Is called before each token, with its number."""

    def stream(self, prompt: Sequence[int], sampling: Sampling, **_: Any) -> ReplyStream:
        self.prompts.append(list(prompt))
        return ReplyStream(
            self._say(self.answers(last_message(prompt), sampling)), prompt_tokens=len(prompt)
        )

    def _say(self, text: str) -> Iterator[Choice]:
        for at, token in enumerate([*encode_text(text), EOT_ID]):
            self.gate(at)
            yield Choice(token)


def last_message(prompt: Sequence[int]) -> str:
    """Return the user's latest message in the tokens of a prompt."""
    end = max(at for at, token in enumerate(prompt) if token == EOT_ID)
    (_role, text) = decode(prompt[max(_turn_starts(prompt[:end])) : end]).split("\n", 1)
    return text


def _turn_starts(prompt: Sequence[int]) -> list[int]:
    return [at + 1 for at, token in enumerate(prompt) if token == 50259]


class Running:
    """A bot that runs in a thread."""

    def __init__(
        self,
        base: str,
        folder: Path,
        models: dict[str, Generator] | None = None,
        *,
        timing: Timing = FAST,
        code: str = "",
        **settings: Any,
    ):
        self.parrot = Parrot()
        self.feedback = folder / "feedback.jsonl"
        self.notes: list[str] = []
        self.error: BaseException | None = None
        known: dict[str, Any] = {"allow": ("1", "-1"), "feedback": self.feedback, **settings}
        self._settings = TelegramConfig(api_base=base, **known)
        self._path, self._code, self._timing = folder / "telegram.db", code, timing
        self._models = {
            name: ChatModel(name, generator)
            for name, generator in (models or {"parrot": self.parrot}).items()
        }
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._started, self._noted = threading.Event(), threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _note(self, text: str) -> None:
        with self._noted:
            self.notes.append(text)
            self._noted.notify_all()

    def _run(self) -> None:
        async def answer() -> None:
            store = Store(self._path)
            api = TelegramAPIServer.from_base(self._settings.api_base)
            bot = Bot(TOKEN, session=AiohttpSession(api=api))
            running = TelegramBot(
                bot,
                self._models,
                store,
                self._settings,
                code=self._code,
                timing=self._timing,
                note=self._note,
            )
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            self._started.set()
            try:
                await running.run()
            finally:
                store.close()

        try:
            asyncio.run(answer())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self.error = error
        self._started.set()

    def wait_for_note(self, text: str) -> None:
        """Wait until the bot has noted a text."""
        with self._noted:
            assert self._noted.wait_for(lambda: any(text in note for note in self.notes), LONG)

    def stop_itself(self) -> None:
        """Wait for a bot that ends on its own, and raise its error."""
        self._thread.join(LONG)
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """End the bot as Ctrl-C does."""
        assert self._started.wait(LONG)
        if self._loop and self._task and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(LONG)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error


def serve(base: str, folder: Path, **settings: Any) -> None:
    """Run a bot in this process until a signal ends it."""
    chats = tuple(map(str, range(1, 101)))
    config = TelegramConfig(api_base=base, allow=chats, **settings)
    models = {"parrot": ChatModel("parrot", Parrot())}
    run(TOKEN, models, Store(folder / "telegram.db"), config, timing=FAST)


def command(folder: Path, *arguments: str) -> None:
    """Run `gpt2chat telegram` in this process, with its output in a file."""
    os.chdir(folder)
    with open("output.txt", "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["TELEGRAM_BOT_TOKEN"] = TOKEN
    sys.argv = ["gpt2chat", "telegram", *arguments]
    main()

"""Run the bot until a signal ends it."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer

from gpt2chat.core.config.telegram import TelegramConfig
from gpt2chat.telegram.bot import TelegramBot
from gpt2chat.telegram.outgoing import Timing
from gpt2chat.telegram.store import Store

if TYPE_CHECKING:
    from gpt2chat.core.chat.model import ChatModel


def run(
    token: str,
    models: "Mapping[str, ChatModel]",
    store: Store,
    settings: TelegramConfig,
    *,
    code: str = "",
    timing: Timing | None = None,
    note: Callable[[str], None] = print,
) -> None:
    """Answer messages until Ctrl-C or SIGTERM; see `TelegramBot` for the arguments.

    Raises:
        ConfigError: Telegram refuses the token.
        StorageError: The state or the feedback cannot be written.
    """

    async def answer() -> None:
        session = AiohttpSession(api=TelegramAPIServer.from_base(settings.api_base))
        bot = Bot(token, session=session)
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # on Windows
                loop.add_signal_handler(number, task.cancel)
        # A signal is the usual end of the bot, not an error.
        with contextlib.suppress(asyncio.CancelledError):
            await TelegramBot(
                bot, models, store, settings, code=code, timing=timing, note=note
            ).run()

    try:
        asyncio.run(answer())
    finally:
        store.close()

"""Send messages so that each text arrives exactly once, whatever the network and the server do.

Telegram has no number by which a repeated `sendMessage` could be told from a second message. If the
connection breaks, or the program is killed before the response, nobody knows whether the message
arrived. An edit may be repeated. So each text goes out in two calls: a message that says nothing
yet, whose number is stored, and an edit that writes the text into it. At worst an empty message
("…") stays behind; an answer is neither lost nor sent twice.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from aiogram import Bot
from aiogram.exceptions import (
    ClientDecodeError,
    TelegramBadRequest,
    TelegramConflictError,
    TelegramForbiddenError,
    TelegramMigrateToChat,
    TelegramNetworkError,
    TelegramNotFound,
    TelegramRetryAfter,
    TelegramServerError,
)
from aiogram.methods import (
    EditMessageText,
    SendChatAction,
    SendMessage,
    SendMessageDraft,
    TelegramMethod,
)
from aiogram.types import (
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    LinkPreviewOptions,
    ReplyParameters,
)
from aiogram.utils.backoff import Backoff, BackoffConfig

from gpt2chat.telegram.incoming import Incoming
from gpt2chat.telegram.store import Store, Unsent
from gpt2chat.telegram.text import split

EMPTY = "…"
"""What a message says until its text is written into it."""
NO_PREVIEW = LinkPreviewOptions(is_disabled=True)
"""A small model makes addresses up; nobody needs a preview of them."""
Result = TypeVar("Result")
UNSURE = (TelegramNetworkError, TelegramServerError, TelegramConflictError, ClientDecodeError)
"""Errors after which a call is repeated."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How often the bot calls Telegram, in seconds."""

    edits: float = 1.5
    """Between two edits in one chat. Telegram allows 20 messages a minute in a group."""
    drafts: float = 0.7
    """Between two drafts of a reply."""
    waiting: float = 5.0
    """Between two notices of the place in the queue."""
    typing: float = 4.5
    """Between two typing indicators; each is shown for 5 seconds."""
    request: int = 30
    """Longest wait for a response."""
    brief: int = 5
    """The same for a call that may fail, such as a draft."""
    poll: int = 30
    """How long Telegram holds a request for updates that has none to give."""
    backoff: BackoffConfig = BackoffConfig(min_delay=1.0, max_delay=30.0, factor=2.0, jitter=0.1)
    """Waits between repeated calls."""


class UnreadableUpdates(Exception):
    """Telegram sent updates of which aiogram cannot read one."""

    def __init__(self, entries: list[dict[str, Any]]):
        super().__init__(f"{len(entries)} updates")
        self.entries = entries


class Pace:
    """Keeps edits in one chat apart, counted from the end of one to the beginning of the next."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._next = 0.0

    async def wait(self) -> None:
        """Wait until an edit is allowed."""
        await asyncio.sleep(max(self._next - time.monotonic(), 0))

    def edited(self) -> None:
        """Count the interval from now on."""
        self._next = time.monotonic() + self._seconds


class Outgoing:
    """Calls Telegram for the bot, and repeats what is worth repeating."""

    def __init__(self, bot: Bot, store: Store, timing: Timing, note: Callable[[str], None]):
        self.bot = bot
        self.store = store
        self.timing = timing
        self._note = note
        self._has_drafts = True
        """Whether the server knows drafts; false after it said that it does not."""

    async def call(self, method: TelegramMethod[Result], *, timeout: int = 0) -> Result:
        """Return Telegram's response, waiting and repeating the call as long as that may help.

        Raises:
            TelegramAPIError: Telegram refuses the call for good.
            UnreadableUpdates: One of the updates has a form that aiogram does not know.
        """
        backoff = Backoff(self.timing.backoff)
        while True:
            try:
                return await self.bot(method, request_timeout=timeout or self.timing.request)
            except TelegramRetryAfter as error:
                await asyncio.sleep(error.retry_after)
            except UNSURE as error:
                gets_updates = method.__api_method__ == "getUpdates"
                if gets_updates and isinstance(error, ClientDecodeError):
                    match error.data:
                        case {"ok": True, "result": [*entries]}:
                            raise UnreadableUpdates(entries) from None
                        case _:
                            pass  # not Telegram's words, but a proxy's
                # One line for an outage, however many tries it takes.
                if not backoff.counter:
                    self._note(f"Cannot reach Telegram: {error}. Trying again.")
                await backoff.asleep()

    async def try_once(self, method: TelegramMethod[Any]) -> float:
        """Make a call that may fail, such as a draft.

        Returns:
            Seconds to wait before the next one, if Telegram asks for that.

        Raises:
            TelegramForbiddenError: The bot may not write to the chat.
            TelegramNotFound: The server does not know the method.
            TelegramBadRequest: Telegram refuses the call for good.
        """
        try:
            await self.bot(method, request_timeout=self.timing.brief)
        except TelegramRetryAfter as error:
            return error.retry_after
        except UNSURE:
            pass
        return 0.0

    async def deliver(self, unsent: Unsent, pace: Pace) -> None:
        """Send a text, and forget it once Telegram has it or refuses it for good.

        Raises:
            TelegramForbiddenError: The bot was blocked, or removed from the group.
            TelegramMigrateToChat: The group is a supergroup now, with another number.
        """
        message = unsent.message
        buttons = [
            InlineKeyboardButton(text=text, callback_data=data) for text, data in unsent.buttons
        ]
        while True:
            try:
                if message is None:
                    message = await self._send_empty(unsent.chat, unsent.thread, unsent.answers)
                    self.store.sent(unsent, message)
                await pace.wait()
                await self.call(
                    EditMessageText(
                        chat_id=unsent.chat,
                        message_id=message,
                        text=unsent.text,
                        reply_markup=InlineKeyboardMarkup(inline_keyboard=[buttons])
                        if buttons
                        else None,
                        link_preview_options=NO_PREVIEW,
                    )
                )
                pace.edited()
            except TelegramBadRequest as error:
                reason = error.message.lower()
                if "not modified" not in reason:  # which an edit that is repeated gets
                    if message is not None and ("to edit" in reason or "be edited" in reason):
                        # The user deleted the message.
                        message = None
                        self.store.sent(unsent, None)
                        continue
                    self._note(f"Telegram refuses a message to chat {unsent.chat}: {error.message}")
            self.store.delivered(unsent)
            return

    async def _send_empty(self, chat: int, thread: int, answers: int | None) -> int:
        answered = None
        if answers is not None:
            # The message may have been deleted meanwhile.
            answered = ReplyParameters(message_id=answers, allow_sending_without_reply=True)
        sent = await self.call(
            SendMessage(
                chat_id=chat,
                text=EMPTY,
                message_thread_id=thread or None,
                reply_parameters=answered,
            )
        )
        return sent.message_id

    async def show(
        self, update: Incoming, message: int | None, progress: "Progress", pace: Pace
    ) -> None:
        """Show a growing text until it has ended: in a draft in private chats, elsewhere by edits.

        Nothing here has to succeed, since `deliver` writes the whole text. A call under way is
        never abandoned, because an edit could arrive after that.

        Args:
            message: The message that was sent for the answer, if there is one.
        """
        timing, shown, typing_at, draft_at = self.timing, "", 0.0, 0.0
        chat, thread = update.chat, update.thread or None
        in_draft = update.private and self._has_drafts
        while not progress.ended.is_set():
            wait, now = 0.0, time.monotonic()
            try:
                if progress.started and now >= typing_at:
                    typing_at = now + timing.typing
                    wait = await self.try_once(
                        SendChatAction(chat_id=chat, action="typing", message_thread_id=thread)
                    )
                text = next(split(progress.text()), "")
                # Telegram shows a draft for 30 seconds.
                if text and in_draft and (text != shown or now >= draft_at):
                    shown, draft_at = text, now + 20
                    draft = SendMessageDraft(
                        chat_id=chat, draft_id=update.update, text=text, message_thread_id=thread
                    )
                    wait = await self.try_once(draft)
                elif text and not in_draft and text != shown:
                    if message is None:
                        answered = None if update.private else update.message
                        message = await self._send_empty(chat, update.thread, answered)
                        self.store.begun(update, message)
                    await pace.wait()
                    if progress.ended.is_set():
                        return  # the next edit is the whole text
                    shown = next(split(progress.text()), text)
                    edit = EditMessageText(
                        chat_id=chat,
                        message_id=message,
                        text=shown,
                        link_preview_options=NO_PREVIEW,
                    )
                    wait = await self.try_once(edit)
                    pace.edited()
            except (TelegramNotFound, TelegramBadRequest) as error:
                if not in_draft:
                    return  # `deliver` meets the same error, and acts on it
                # Either the server is too old for drafts, or this chat cannot have them.
                in_draft, shown = False, ""
                self._has_drafts = self._has_drafts and isinstance(error, TelegramBadRequest)
                continue
            except (TelegramForbiddenError, TelegramMigrateToChat):
                return
            interval = timing.drafts if in_draft else timing.edits
            await progress.wait(max(interval if progress.started else timing.waiting, wait))


class Progress:
    """What can be shown of a reply: its place in the queue, and then its text so far."""

    def __init__(self, place: Callable[[], int]):
        """Begin with the place in the queue, which `place` returns."""
        self._place = place
        self.said = ""
        """The text so far. The thread that generates it writes here."""
        self.started = False
        self.ended = asyncio.Event()
        self._changed = asyncio.Event()

    def start(self) -> None:
        """Show the text from here on, and no longer the place in the queue."""
        self.started = True
        self._changed.set()

    def end(self) -> None:
        """Let `show` end."""
        self.ended.set()
        self._changed.set()

    def text(self) -> str:
        """Return what to show; empty if nothing is said yet."""
        if self.started:
            return self.said
        return f"Number {self._place()} in the queue."

    async def wait(self, seconds: float) -> None:
        """Wait, at most until the reply starts or ends."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return
        self._changed.clear()

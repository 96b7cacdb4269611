"""Answer Telegram's updates: one line of work for each chat, and the bot's commands.

    getUpdates → store → line of the chat → Chat → store → Telegram

Updates of one chat are answered in order. Chats take turns: each has one place in the queue for the
model, and goes to its end after a reply.
"""

import asyncio
import contextlib
import dataclasses
import hmac
import random
import secrets
import sqlite3
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from aiogram import Bot
from aiogram.exceptions import (
    TelegramAPIError,
    TelegramForbiddenError,
    TelegramMigrateToChat,
    TelegramNotFound,
    TelegramUnauthorizedError,
)
from aiogram.methods import (
    AnswerCallbackQuery,
    EditMessageReplyMarkup,
    GetMe,
    GetUpdates,
    SetMyCommands,
)
from aiogram.types import BotCommand, Update
from pydantic import ValidationError

from gpt2chat.core.chat.feedback import Feedback
from gpt2chat.core.config.telegram import TelegramConfig
from gpt2chat.core.errors import ConfigError, DataError, Gpt2ChatError, ReplyError
from gpt2chat.telegram.incoming import Incoming, read_update
from gpt2chat.telegram.outgoing import Outgoing, Pace, Progress, Timing, UnreadableUpdates
from gpt2chat.telegram.store import ChatState, Rateable, Store, Unsent
from gpt2chat.telegram.text import split

if TYPE_CHECKING:
    from gpt2chat.core.chat.chat import Chat, Stream
    from gpt2chat.core.chat.model import ChatModel
    from gpt2chat.core.generation.reply import Reply

MOST_TRIES = 3
"""Times the model begins to answer a message before the bot gives up on it: the message may be what
ends the program each time."""
SHORTEST_MESSAGE = 5
"""Fewest tokens of a message in the window, with its role and its end."""
COMMANDS = {
    "reset": "forget our conversation",
    "system": "show or set the system prompt: /system TEXT",
    "retry": "answer my latest message again",
    "undo": "take back my latest message and its reply",
    "two": "give two answers and let me choose: /two MESSAGE",
    "model": "show the models, or choose one: /model NUMBER",
    "help": "list the commands",
}
"""The commands that Telegram's menu lists, with what each does."""
TWO = 70_001
"""Added to the seed for the second answer of one model; prime, so that no two draws coincide."""
ABOUT = (
    "I am a small language model. I make things up, and I remember only the last few hundred words."
)
GREETING = f"{ABOUT} Write me something, or see /help."
CLOSED = (
    "This bot is closed. Ask its owner for the code, and send /start CODE. Your number is {user}."
)
TEXT_ONLY = "I can only read text. Write it as a message."
TOO_FAST = "You write faster than I can answer. Wait a minute."
GIVEN_UP = "I cannot answer this message. Ask in other words."


Result = TypeVar("Result")


class Request(NamedTuple):
    """An update that is being answered."""

    update: Incoming
    message: int | None
    """The message that an earlier process sent for the answer, if any."""
    pace: Pace


class TelegramBot:
    """A bot that answers with one or more models."""

    def __init__(
        self,
        bot: Bot,
        models: "Mapping[str, ChatModel]",
        store: Store,
        settings: TelegramConfig,
        *,
        code: str = "",
        timing: Timing | None = None,
        note: Callable[[str], None] = print,
    ):
        """Prepare to answer.

        Args:
            bot: aiogram's bot, with the token and the address of the server.
            models: The models by name; the first one answers by default.
            code: The code by which users join. Without one, only those whom the settings allow may
                talk.
            note: Called with a line for the log, in which the token never occurs.
        """
        self._bot = bot
        self._models = models
        self._store = store
        self._settings = settings
        self._code = code
        self._timing = timing or Timing()
        # An error may quote the address of a call, and the token is a part of that.
        self._note: Callable[[str], None] = lambda text: note(text.replace(bot.token, "[token]"))
        self._outgoing = Outgoing(bot, store, self._timing, self._note)
        self._allowed = {int(number) for number in settings.allow}
        self._lines: dict[int, asyncio.Task[None]] = {}
        self._queue: list[Progress] = []
        """The replies that wait for a free place at the model, in order."""
        self._free = asyncio.Semaphore(settings.at_once)
        self._threads = ThreadPoolExecutor(settings.at_once, "gpt2chat-reply")
        self._streams: set[Stream] = set()

    async def run(self) -> None:
        """Answer updates until cancelled.

        Raises:
            ConfigError: Telegram refuses the token.
            StorageError: The state or the feedback cannot be written.
        """
        try:
            await self._run()
        except Exception as raised:
            error = raised
            # The group of tasks wraps what one of them raised.
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            if isinstance(error, TelegramUnauthorizedError | TelegramNotFound):
                text = "Telegram refuses the token. Copy it again from @BotFather."
                raise ConfigError(text, setting="token_file") from None
            report = "".join(traceback.format_exception(error))
            if self._bot.token in report:  # such as in an address
                raise RuntimeError(report.replace(self._bot.token, "[token]")) from None
            raise error from None
        finally:
            # What is being generated is not answered yet, and is answered after the next start.
            for stream in list(self._streams):
                stream.cancel()
            self._threads.shutdown()
            await self._bot.session.close()

    async def _run(self) -> None:
        self._me = await self._outgoing.call(GetMe())
        commands = [
            BotCommand(command=command, description=what)
            for command, what in COMMANDS.items()
            if command != "model" or len(self._models) > 1
        ]
        with contextlib.suppress(TelegramAPIError):  # the menu of commands is a convenience
            await self._outgoing.try_once(SetMyCommands(commands=commands))
        start = f"?start={self._code}" if self._code else ""
        self._note(f"Talk to the bot: https://t.me/{self._me.username}{start} (Ctrl-C ends)")
        async with asyncio.TaskGroup() as tasks:
            for chat in self._store.busy_chats():
                self._wake(chat, tasks)
            await self._receive(tasks)

    async def _receive(self, tasks: asyncio.TaskGroup) -> None:
        """Store each update, and only then ask for those after it."""
        # The first request has no offset: Telegram sends again what an earlier process did not
        # confirm, and its numbers may begin anew after a week without updates.
        offset: int | None = None
        poll = self._timing.poll
        while True:
            request = GetUpdates(
                offset=offset, timeout=poll, allowed_updates=["message", "callback_query"]
            )
            try:
                updates = await self._outgoing.call(request, timeout=poll + self._timing.request)
                numbers = [update.update_id for update in updates]
            except UnreadableUpdates as error:
                # An update that aiogram cannot read must not hold up the others forever.
                numbers, updates = [int(entry["update_id"]) for entry in error.entries], []
                for entry in error.entries:
                    try:
                        updates.append(Update.model_validate(entry, context={"bot": self._bot}))
                    except ValidationError:
                        self._note(f"Telegram's update {entry['update_id']} cannot be read.")
            if not numbers:
                continue
            incoming = [read_update(update, self._me) for update in updates]
            for chat in self._store.add(filter(None, incoming)):
                self._wake(chat, tasks)
            offset = max(numbers) + 1

    def _wake(self, chat: int, tasks: asyncio.TaskGroup) -> None:
        if chat not in self._lines:
            self._lines[chat] = tasks.create_task(self._work(chat, tasks))

    async def _work(self, chat: int, tasks: asyncio.TaskGroup) -> None:
        """Send what is unsent and answer what is unanswered in a chat, until nothing is left."""
        pace = Pace(self._timing.edits)
        try:
            while True:
                try:
                    while unsent := self._store.outbox(chat):
                        await self._outgoing.deliver(unsent, pace)
                    found = self._store.next_update(chat)
                    if found is None:
                        return
                    update, message, tries = found
                    await self._answer(Request(update, message, pace), tries)
                except TelegramForbiddenError as error:
                    self._note(f"Chat {chat} is closed to the bot: {error.message}")
                    self._store.gone(chat)
                except TelegramMigrateToChat as error:
                    new = error.migrate_to_chat_id
                    self._store.moved(chat, new)
                    # The settings name the old number of the group.
                    if chat in self._allowed:
                        self._store.join(new)
                    self._wake(new, tasks)
        finally:
            # Nothing is awaited between the last look into the store and this, so no update of
            # the chat can arrive unnoticed.
            del self._lines[chat]

    async def _answer(self, request: Request, tries: int) -> None:
        """Answer one update, and commit the answer."""
        update = request.update
        try:
            if tries >= MOST_TRIES:
                self._say(update, GIVEN_UP)
            elif update.query:
                await self._press(update)
            else:
                await self._hear(request)
        except ReplyError:
            self._say(update, GIVEN_UP)
        except DataError as error:
            # About the message or the system prompt, such as that it is too long.
            self._say(update, str(error).replace("`", ""))
        # Not about this message: Telegram refuses a call, or the state cannot be written.
        except (TelegramAPIError, Gpt2ChatError, sqlite3.Error):
            raise
        except Exception:
            # A mistake of ours in one answer must not end the others.
            self._note(f"Cannot answer update {update.update}:\n{traceback.format_exc()}")
            self._say(update, GIVEN_UP)

    async def _hear(self, request: Request) -> None:
        update = request.update
        # This comes before the code is compared, so that guesses at it are limited as well.
        if self._settings.rate:
            answered, refused = self._store.recent(update)
            if answered >= self._settings.rate:
                # Whoever is refused is told once. More answers would be a flood of their own.
                heard = refused or not self._may_talk(update)
                self._say(update, None if heard else TOO_FAST, refused=True)
                return
        command, text = update.command()
        if not self._may_talk(update):
            # The comparison takes the same time wherever the two differ, so that nobody can find
            # the code letter by letter.
            right = hmac.compare_digest(text.encode(), self._code.encode())
            if command == "start" and self._code and right:
                self._store.join(update.chat)  # in a private chat, this is the user's number
                self._say(update, GREETING)
            elif command in ("start", "help") and update.private:
                self._say(update, CLOSED.format(user=update.user))
            else:
                self._say(update, None)
        elif update.text is None:
            self._say(update, TEXT_ONLY)
        elif command:
            await self._run_command(request, command, text)
        else:
            await self._reply(request, lambda chat: chat.stream(text))

    def _may_talk(self, update: Incoming) -> bool:
        known = bool(self._allowed & {update.user, update.chat})
        return known or self._store.is_member(update.user, update.chat)

    def _say(
        self,
        update: Incoming,
        text: str | None,
        *,
        state: ChatState | None = None,
        buttons: tuple[tuple[str, str], ...] = (),
        refused: bool = False,
    ) -> None:
        """Commit the answer to an update, in as many messages as it needs.

        Args:
            text: What to say; None to say nothing.
            state: The chat after the answer; None if it is unchanged.
            refused: Whether the update does not count for the rate limit.
        """
        texts = list(split(text)) if text else []
        unsent = [
            Unsent(
                chat=update.chat,
                thread=update.thread,
                # In groups it must be clear whose message is answered.
                answers=None if update.private or at else update.message,
                text=each,
                buttons=buttons if at == len(texts) - 1 else (),
            )
            for at, each in enumerate(texts)
        ]
        self._store.answer(update, unsent, state, refused=refused)

    async def _run_command(self, request: Request, command: str, text: str) -> None:
        """Carry out a command of somebody who may talk to the bot."""
        update = request.update
        state = self._store.chat(update)
        match command:
            case "start":
                self._say(update, GREETING)
            case "help":
                lines = [f"/{name}: {what}" for name, what in COMMANDS.items()]
                self._say(update, "\n".join([ABOUT, "", *lines]))
            case "reset":
                state.turns, state.retries = [], 0
                self._say(update, "I have forgotten our conversation.", state=state)
            case "undo":
                chat = self._chat(state)
                chat.undo()
                state.turns, state.retries = _turns(chat), 0
                self._say(update, "I have taken your latest message back.", state=state)
            case "retry":
                await self._reply(request, lambda chat: chat.stream_retry())
            case "two":
                await self._two(request, text)
            case "system" if not text:
                prompt = self._chat(state).session.system
                text = f"The system prompt is: {prompt}\n/system default restores the usual one."
                self._say(update, text)
            case "system":
                state.system = None if text.lower() == "default" else text
                self._chat(state)  # raises DataError if the prompt is too long
                self._say(update, "The system prompt is set.", state=state)
            case "model":
                numbered = {str(at): name for at, name in enumerate(self._models, 1)}
                # Somebody types the number that the list shows, or the whole name.
                choices = {**{name: name for name in self._models}, **numbered}
                if text in choices:
                    state.model = choices[text]
                    self._say(update, f"{state.model} answers from now on.", state=state)
                    return
                used = self._name(state)
                lines = [f"There is no model {text}."] if text else []
                for at, name in numbered.items():
                    lines.append(f"{at}. {name}{' (answers now)' * (name == used)}")
                self._say(update, "\n".join(lines))
            case _:
                self._say(update, f"There is no command /{command}. See /help.")

    async def _reply(self, request: Request, begin: "Callable[[Chat], Stream]") -> None:
        """Answer with the model, and put buttons for a rating below."""
        state = self._store.chat(request.update)
        chat = self._chat(state)
        reply = await self._generate(request, lambda shown: self._read(begin(chat), shown))
        state.turns, state.retries = _turns(chat), chat.retries
        number = self._store.add_reply(request.update, _rateable(chat, reply, self._name(state)))
        buttons = (("👍", f"good:{number}"), ("👎", f"bad:{number}"))
        self._say(request.update, reply.text, state=state, buttons=buttons)

    async def _two(self, request: Request, text: str) -> None:
        """Give two answers, by two models if there are several, without saying whose is which."""
        state = self._store.chat(request.update)
        first = self._name(state)
        others = [name for name in self._models if name != first]
        names = [first, random.choice(others) if others else first]
        # The vote is blind: A may be either of them.
        random.shuffle(names)
        seed = self._settings.sampling.seed
        # Two models get one seed, so that luck does not decide; one model needs two.
        seed = secrets.randbelow(2**31) if seed is None else seed
        chats = [self._chat(state, name) for name in names]
        for at, chat in enumerate(chats):
            own = seed if others else seed + at * TWO
            chat.sampling = dataclasses.replace(chat.sampling, seed=own)
        # Both share one place at the model, so the second begins once the first has been read.
        replies = await self._generate(
            request,
            lambda shown: [
                self._read(chat.stream(text) if text else chat.stream_retry(), shown)
                for chat in chats
            ],
        )
        # Until the vote, the first answer is the one that counts.
        state.turns, state.retries = _turns(chats[0]), chats[0].retries
        # Between two equal answers there is nothing to vote on.
        if replies[0].text == replies[1].text:
            self._say(request.update, f"Both say: {replies[0].text}", state=state)
            return
        a, b = (
            self._store.add_reply(request.update, dataclasses.replace(_rateable(*each), seed=seed))
            for each in zip(chats, replies, names, strict=True)
        )
        self._say(
            request.update,
            f"A: {replies[0].text}\n\nB: {replies[1].text}\n\nWhich is better?",
            state=state,
            buttons=(("A", f"vote:{a}:{b}"), ("B", f"vote:{b}:{a}"), ("Same", f"same:{a}:{b}")),
        )

    async def _generate(self, request: Request, work: "Callable[[Progress], Result]") -> "Result":
        """Run some work of the model in a thread when it is this chat's turn, and show it."""
        progress = Progress(lambda: self._queue.index(progress) + 1)
        self._queue.append(progress)
        showing = asyncio.create_task(
            self._outgoing.show(request.update, request.message, progress, request.pace)
        )
        try:
            async with self._free:
                self._queue.remove(progress)
                progress.start()
                # Only now: what waited through several restarts has not been tried yet.
                self._store.tried(request.update)
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._threads, work, progress)
        except asyncio.CancelledError:
            # The program ends, and not because of this message.
            self._store.tried(request.update, -1 if progress.started else 0)
            showing.cancel()
            raise
        finally:
            progress.end()
            with contextlib.suppress(asyncio.CancelledError):
                await showing

    def _read(self, stream: "Stream", shown: Progress) -> "Reply":
        """Read a reply to its end, in a thread."""
        shown.said = ""
        # `run` cancels these when the program ends: a thread cannot be interrupted.
        self._streams.add(stream)
        try:
            for piece in stream:
                shown.said += piece
        finally:
            self._streams.discard(stream)
        return stream.reply

    def _name(self, state: ChatState) -> str:
        """Return the name of the model that answers in a chat."""
        # A chat may have chosen a model that the bot was restarted without.
        return state.model if state.model in self._models else next(iter(self._models))

    def _chat(self, state: ChatState, name: str = "") -> "Chat":
        """Return a chat in a state, with its own model or another one.

        Raises:
            DataError: The system prompt is too long.
        """
        model = self._models[name or self._name(state)]
        chat = model.chat(state.system or self._settings.system, messages=state.turns)
        chat.sampling, chat.retries = self._settings.sampling, state.retries
        return chat

    async def _press(self, update: Incoming) -> None:
        """Write a rating or a vote to the feedback file, and say thanks in passing."""
        kind, *numbers = update.data.split(":")
        found = [self._store.reply(update, int(number)) for number in numbers]
        replies = [reply for reply in found if reply is not None]
        state = None
        if not self._may_talk(update):
            thanks = "You have not joined."
        elif not replies or len(replies) < len(found):
            thanks = "That reply is too old."
        elif kind in ("good", "bad"):
            (reply,) = replies
            thanks = "You said so before." if reply.rating == kind else "Thank you."
            if reply.rating != kind:
                feedback = Feedback(self._settings.feedback)
                # A new process has forgotten earlier ratings, and a good and a bad reply to one
                # prompt make a pair.
                for other in self._store.rated(update, reply):
                    if other.rating in ("good", "bad"):
                        good = other.rating == "good"
                        feedback.recall(other.prompt, other.text, good=good, cut=other.cut)
                rate = feedback.good if kind == "good" else feedback.bad
                rate(reply.prompt, reply.text, cut=reply.cut)
                self._store.rate({reply.id: kind})
        elif any(reply.rating for reply in replies):
            thanks = "You have voted before."
        elif kind == "same":
            thanks = "Thank you."
            self._store.rate({reply.id: "same" for reply in replies})
        else:
            thanks = "Thank you."
            state = self._vote(update, *replies)
        self._say(update, None, state=state)
        # The toast and the buttons are a courtesy: the rating counts without them.
        with contextlib.suppress(TelegramAPIError):
            answer = AnswerCallbackQuery(callback_query_id=update.query, text=thanks)
            await self._outgoing.try_once(answer)
            if kind in ("vote", "same"):
                await self._outgoing.try_once(
                    EditMessageReplyMarkup(chat_id=update.chat, message_id=update.message)
                )

    def _vote(self, update: Incoming, best: Rateable, other: Rateable) -> ChatState | None:
        """Write a vote; return the chat with the better answer, unless it has gone on since."""
        if best.model == other.model:
            feedback = Feedback(self._settings.feedback)
            # The second rating finds the first, and writes the pair of the two as well.
            feedback.bad(other.prompt, other.text, cut=other.cut)
            feedback.good(best.prompt, best.text, cut=best.cut)
        else:
            texts = {best.model: best.text, other.model: other.text}
            Feedback(self._settings.feedback).vote(
                best.prompt, best.model, texts, best.seed, cut=best.cut
            )
        self._store.rate({best.id: "good", other.id: "bad"})
        state = self._store.chat(update)
        if not state.turns or state.turns[-1]["content"] != other.text:
            return None
        state.turns[-1] = {"role": "assistant", "content": best.text, "cut": best.cut}
        return state


def _turns(chat: "Chat") -> list[dict[str, Any]]:
    """Return the messages of a chat that may still be in its window."""
    cut = chat.session.cut_messages
    turns: list[dict[str, Any]] = [
        {**entry, "cut": True} if at in cut else {**entry}
        for at, entry in enumerate(chat.messages)
        if entry["role"] in ("user", "assistant")
    ]
    # What left the window is not needed again, and a chat may go on for years.
    turns = turns[-(chat.session.window // SHORTEST_MESSAGE) :]
    # The cut may fall between a message and its reply, and a chat begins with a message.
    return turns[1:] if turns and turns[0]["role"] == "assistant" else turns


def _rateable(chat: "Chat", reply: "Reply", model: str) -> Rateable:
    prompt, text = chat.session.latest
    return Rateable(prompt=prompt, text=text, cut=not reply.stopped, model=model)

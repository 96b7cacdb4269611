"""Talk with a model: ask, stream, retry, undo, and say what was good."""

import dataclasses
import threading
from collections.abc import Generator as Steps
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gpt2chat.core.chat.feedback import Feedback
from gpt2chat.core.chat.session import Prompt, Session
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.errors import ReplyError

# A chat begins while torch is still being imported: the engine is what imports it.
if TYPE_CHECKING:
    from gpt2chat.core.generation.generate import Generator
    from gpt2chat.core.generation.reply import Reply, ReplyStream

SECOND_TRY = 503
"""Added to the seed to ask once more after an empty reply."""
TURN = 1009
"""Added to the seed for each exchange: the same draws in every turn would lead a small model to say
again what it has said before. Both numbers are prime, so that no two draws of a chat coincide."""
SHORT = 3
"""Replies of so few words, such as "Yes.", may occur again without being noticed."""


class Window(NamedTuple):
    """How full the model's window is."""

    used: int
    """Tokens in the window, the latest reply included."""
    size: int
    """Tokens that fit: prompt and reply together."""
    leaves_next: list[dict[str, str]]
    """The messages that leave the window first, once it is full; empty without history."""


class Chat:
    """A conversation with a model; `load(name).chat()` begins one.

    A chat has one reply at a time: `ask` waits for its turn, and whatever changes the chat ends a
    stream that was not read to its end, as `Stream.close` does. Any thread may use it. Chats that
    share a model take turns.
    """

    def __init__(
        self,
        generator: "Generator | None",
        *,
        session: Session | None = None,
        sampling: Sampling | None = None,
        feedback: Path = Path("feedback.jsonl"),
    ):
        """Begin a chat, or continue the one of a session.

        Args:
            generator: What answers; None if `use` sets it later, before the first message.
            feedback: File that `good`, `bad` and `edit` append to.
        """
        self.session = session or Session()
        self.sampling = sampling or Sampling()
        """How replies are drawn, from the next one on."""
        self.feedback = Feedback(feedback)
        self.retries = 0
        """How often the latest message was answered again: each time from another seed."""
        self.lock = threading.RLock()
        """Held while the chat changes; a stream holds it for each piece."""
        self.open_stream: Stream | None = None
        """The stream that was not read to its end."""
        self._generator = generator
        if generator:
            self.use(generator)

    @property
    def generator(self) -> "Generator":
        """What answers.

        Raises:
            RuntimeError: It was not set.
        """
        if self._generator is None:
            raise RuntimeError("The chat has no model yet: call `use` first.")
        return self._generator

    def use(self, generator: "Generator") -> None:
        """Let a model answer from the next message on."""
        self._generator = generator
        self.session.window = generator.window

    def ask(self, text: str) -> "Reply":
        """Return the reply to a message.

        Raises:
            DataError: The message is empty, or too long for the window. The chat is as it was.
            ReplyError: The model gave no reply, twice. The message is taken back.
        """
        with self.lock, self.generator.turn:
            return self.stream(text).read()

    def stream(self, text: str) -> "Stream":
        """Return the pieces of the reply to a message as they come; see `Stream`.

        Raises:
            DataError: The message is empty, or too long for the window. The chat is as it was.
            ReplyError: While the pieces are read: the model gave no reply, twice. The message is
                taken back.
        """
        with self.lock:
            self._end_stream()
            prompt = self.session.ask(text, self.sampling.max_new_tokens)
            self.retries = 0
            return self._begin(prompt)

    def retry(self) -> "Reply":
        """Return another reply to the latest message, which replaces the one before.

        Raises:
            DataError: There is no message to answer.
            ReplyError: The model gave no reply, twice. The reply before stays.
        """
        with self.lock, self.generator.turn:
            return self.stream_retry().read()

    def stream_retry(self) -> "Stream":
        """Return the pieces of another reply to the latest message as they come; see `retry`."""
        with self.lock:
            self._end_stream()
            prompt = self.session.retry(self.sampling.max_new_tokens)
            self.retries += 1
            return self._begin(prompt)

    def undo(self) -> str:
        """Take back the latest message and its reply; return the message.

        Raises:
            DataError: There is no message.
        """
        with self._changing() as session:
            return session.undo()

    def clear(self) -> None:
        """Forget all messages; the system prompt and the document stay."""
        with self._changing() as session:
            session.clear()

    def edit(self, text: str) -> int:
        """Replace the latest reply with a better one, and note both in the feedback file.

        Returns:
            The number of rows written; 0 if the text is the reply as it is.

        Raises:
            DataError: There is no reply yet, or the text is empty.
            StorageError: The feedback file cannot be written. The reply is as it was.
        """
        with self._changing() as session:
            prompt, old = session.latest
            cut = session.is_cut
            session.edit(text)
            new = session.latest[1]
            if new == old:
                return 0
            try:
                bad = self.feedback.bad(prompt, old, cut=cut)
                return bad + self.feedback.good(prompt, new)
            except BaseException:
                session.edit(old, cut=cut)  # so that it can be edited again
                raise

    def good(self) -> int:
        """Note in the feedback file that the latest reply is good.

        A reply that the model did not end itself is marked as cut, and `prepare` leaves it out.

        Returns:
            The number of rows written; 0 if the same was noted before.

        Raises:
            DataError: There is no reply yet.
            StorageError: The feedback file cannot be written.
        """
        with self._changing() as session:
            return self.feedback.good(*session.latest, cut=session.is_cut)

    def bad(self) -> int:
        """Note in the feedback file that the latest reply is bad; see `good`.

        A better one, by `retry` and `good` or by `edit`, then makes a preference pair.
        """
        with self._changing() as session:
            return self.feedback.bad(*session.latest, cut=session.is_cut)

    @property
    def messages(self) -> list[dict[str, str]]:
        """System prompt, document and turns as `{"role": …, "content": …}`, the oldest first.

        They include messages that have left the window, and what a stream has said so far.
        """
        stream = self.open_stream
        said = stream.reply.text.strip() if stream else ""
        entries = [{"role": part.role, "content": part.content} for part in self.session.messages]
        return [*entries, {"role": "assistant", "content": said}] if said else entries

    @property
    def window(self) -> Window:
        """How full the window is, and which messages leave it first."""
        leaving = self.session.leaves_next(self.sampling.max_new_tokens)
        entries = [{"role": part.role, "content": part.content} for part in leaving]
        return Window(self.session.used, self.session.window, entries)

    def save(self, path: str | Path) -> None:
        """Write the chat to a file that `load`, the terminal's `/load` and `prepare` read.

        Raises:
            DataError: There is nothing to save, or the file exists and is not a saved chat.
            StorageError: The file cannot be written.
        """
        with self._changing() as session:
            session.save(Path(path))

    def load(self, path: str | Path) -> None:
        """Replace the chat with one from a file of `save` or of the terminal's `/save`.

        Raises:
            DataError: The file is not a saved chat, or its system prompt and document take too much
                of the window. The chat is as it was.
        """
        with self._changing() as session:
            session.load(Path(path))

    def draw(self, retries: int) -> Sampling:
        """Return the sampling of the reply to the latest message, so that a seed fixes a chat."""
        return self.sampling.with_seed_offset(retries + TURN * (len(self.session.turns) // 2))

    @contextmanager
    def _changing(self) -> Steps[Session]:
        with self.lock:
            self._end_stream()
            yield self.session

    def _begin(self, prompt: Prompt) -> "Stream":
        self.open_stream = Stream(self, prompt)
        return self.open_stream

    def _end_stream(self) -> None:
        if self.open_stream:
            self.open_stream.close()


class Stream(Iterator[str]):
    """The pieces of a reply as they come; `reply` has all of it, and its figures.

    A stream that ends early, by `cancel` or `close`, keeps what was said as the reply. If nothing
    was said, the message is taken back, or the reply before a retry stays. A stream that is
    abandoned ends this way when its chat is changed next. In a `with` block it ends with the block.
    """

    def __init__(self, chat: Chat, prompt: Prompt):
        self._chat = chat
        self._prompt = prompt
        self._retries = chat.retries
        self._cancelled = False
        self._reply: Reply | None = None
        self._drawing = self._draw(0)
        self._pieces = self._run()

    def __next__(self) -> str:
        with self._chat.lock, self._chat.generator.turn:
            return next(self._pieces)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def reply(self) -> "Reply":
        """The reply, or what there is of it so far."""
        return self._reply or self._drawing.reply

    @property
    def left_window(self) -> int:
        """Number of messages that left the window to make room for this turn."""
        return self._prompt.left

    def read(self) -> "Reply":
        """Read to the end and return the whole reply.

        Raises:
            ReplyError: The model gave no reply, twice. The message is taken back.
        """
        for _ in self:
            pass
        return self.reply

    def cancel(self) -> None:
        """End the reply before its next token; any thread may call this and does not wait."""
        self._cancelled = True
        self._drawing.cancel()

    def close(self) -> None:
        """End the stream where it is. Closing it again does nothing."""
        with self._chat.lock:
            self._pieces.close()
            self._settle()  # a generator that has not begun does not run its `finally`

    def _draw(self, try_: int) -> "ReplyStream":
        chat = self._chat
        sampling = chat.draw(self._retries + try_)
        return chat.generator.stream(self._prompt.ids, sampling, stop_loops=True)

    def _run(self) -> Steps[str]:
        failed = True
        try:
            yield from _from_first_word(self._drawing)
            if not (self._drawing.reply.text.strip() or self._cancelled):
                # A small model now and then ends its reply before the first word.
                self._drawing = self._draw(SECOND_TRY)
                yield from _from_first_word(self._drawing)
            if not (self._drawing.reply.text.strip() or self._cancelled):
                raise ReplyError(
                    "The model ended its reply before the first word, twice. Ask in other words, "
                    "or set another `seed`."
                )
            failed = False
        except (GeneratorExit, KeyboardInterrupt):
            failed = False  # ended early, and what was said stays
            raise
        finally:
            self._settle(failed=failed)

    def _settle(self, *, failed: bool = False) -> None:
        """Put the reply into the chat, or be as before the message if there is none."""
        if self._reply:
            return
        chat = self._chat
        chat.open_stream = None
        reply = self._drawing.reply
        text = "" if failed else reply.text.strip()
        said = [turn.content for turn in chat.session.turns if turn.role == "assistant"]
        self._reply = dataclasses.replace(
            reply,
            text=text,
            left_window=self._prompt.left,
            repeated=len(text.split()) > SHORT and _words(text) in map(_words, said),
        )
        chat.session.answer(text, cut=not reply.stopped)


def _from_first_word(pieces: Iterator[str]) -> Iterator[str]:
    """Yield the pieces of a text without the white space at its beginning."""
    begun = False
    for piece in pieces:
        text = piece if begun else piece.lstrip()
        begun = begun or bool(text)
        if text:
            yield text


def _words(text: str) -> list[str]:
    return text.casefold().split()

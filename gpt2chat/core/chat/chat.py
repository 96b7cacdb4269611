"""Talk with a model: ask, stream, retry, undo, and rate replies."""

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

# Importing the engine imports torch, and a chat begins before that is done.
if TYPE_CHECKING:
    from gpt2chat.core.generation.generate import Generator
    from gpt2chat.core.generation.reply import Reply, ReplyStream

SECOND_TRY = 503
"""Added to the seed for the second try after an empty reply."""
TURN = 1009
"""Added to the seed for each exchange: with the same draws in every turn, a small model repeats
itself. Both numbers are prime, so that no two draws of a chat coincide."""
MOST_WORDS_IGNORED = 3
"""A reply of this length or less, such as "Yes.", may occur again without being reported."""


class Window(NamedTuple):
    """How full the model's window is."""

    used: int
    """Tokens in the window, the latest reply included."""
    size: int
    """Most tokens of prompt and reply together."""
    leaves_next: list[dict[str, str]]
    """The messages that leave the window first, once it is full; empty without history."""


class Chat:
    """A conversation with a model; `load(name).chat()` begins one.

    A chat has one reply at a time: `ask` waits for its turn, and whatever changes the chat ends a
    stream that was not read to its end, as `Stream.close` does. Any thread may use it. Chats that
    share a model compute their replies together.
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
            generator: The engine that answers; None if `use` sets it before the first message.
            feedback: File that `good`, `bad` and `edit` append to.
        """
        self.session = session or Session()
        self.sampling = sampling or Sampling()
        """How replies are drawn, from the next one on."""
        self.feedback = Feedback(feedback)
        self.retries = 0
        """Number of retries of the latest message; each draws from another seed."""
        # Reentrant: `ask` holds it while its stream takes it for each piece.
        self.lock = threading.RLock()
        """Lock that a change of the chat takes, and a stream takes for each piece."""
        self.open_stream: Stream | None = None
        """The stream that has not been read to its end."""
        self._generator = generator
        if generator:
            self.use(generator)

    @property
    def generator(self) -> "Generator":
        """The engine that answers.

        Raises:
            RuntimeError: It has not been set.
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
            DataError: The message is empty, or too long for the window. The chat is unchanged.
            ReplyError: The model gave no reply, twice. The message is taken back.
        """
        with self.lock:
            return self.stream(text).read()

    def stream(self, text: str) -> "Stream":
        """Return the pieces of the reply to a message as they come; see `Stream`.

        Raises:
            DataError: The message is empty, or too long for the window. The chat is unchanged.
            ReplyError: While the pieces are read: the model gave no reply, twice. The message is
                taken back.
        """
        with self.lock:
            self._end_stream()
            prompt = self.session.ask(text, self.sampling.max_new_tokens)
            self.retries = 0
            return self._begin(prompt)

    def retry(self) -> "Reply":
        """Return another reply to the latest message, which replaces the last one.

        Raises:
            DataError: There is no message to answer.
            ReplyError: The model gave no reply, twice. The last reply stays.
        """
        with self.lock:
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
        """Replace the latest reply with a better one, and write both to the feedback file.

        Returns:
            The number of rows written; 0 if the text equals the reply.

        Raises:
            DataError: There is no reply yet, or the text is empty.
            StorageError: The feedback file cannot be written. The reply is unchanged.
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
        """Write the latest reply to the feedback file as a good one.

        A reply that the model did not end itself is marked as cut, and `prepare` leaves it out.

        Returns:
            The number of rows written; 0 if the reply was rated good before.

        Raises:
            DataError: There is no reply yet.
            StorageError: The feedback file cannot be written.
        """
        with self._changing() as session:
            return self.feedback.good(*session.latest, cut=session.is_cut)

    def bad(self) -> int:
        """Write the latest reply to the feedback file as a bad one; see `good`.

        A better one, by `retry` and `good` or by `edit`, then makes a preference pair.
        """
        with self._changing() as session:
            return self.feedback.bad(*session.latest, cut=session.is_cut)

    @property
    def messages(self) -> list[dict[str, str]]:
        """System prompt, document and turns as `{"role": …, "content": …}`, oldest first.

        They include messages that have left the window, and the text of an open stream so far.
        """
        stream = self.open_stream
        text = stream.reply.text.strip() if stream else ""
        entries = [{"role": part.role, "content": part.content} for part in self.session.messages]
        return [*entries, {"role": "assistant", "content": text}] if text else entries

    @property
    def window(self) -> Window:
        """Tokens in the window, and the messages that leave it first."""
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
        """Replace the chat with one from a file that `save` or the terminal's `/save` wrote.

        Raises:
            DataError: The file is not a saved chat, or its system prompt and document take too much
                of the window. The chat is unchanged.
        """
        with self._changing() as session:
            session.load(Path(path))

    def draw(self, retries: int) -> Sampling:
        """Return the sampling of the next reply; its seed depends on the turn and the retry."""
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
    """The pieces of a reply as they come; `reply` has the whole text and its figures.

    If a stream ends early, by `cancel` or `close`, its text so far becomes the reply. Without any
    text, the message is taken back, or the reply before a retry stays. An abandoned stream ends
    this way at the chat's next change, and one in a `with` block at the end of the block.
    """

    def __init__(self, chat: Chat, prompt: Prompt):
        self._chat = chat
        self._prompt = prompt
        self._retries = chat.retries
        self._cancelled = False
        self._reply: Reply | None = None
        # Made here, since `reply` and `cancel` may be used before the first piece.
        self._drawing = self._draw(0)
        self._pieces = self._run()

    def __next__(self) -> str:
        with self._chat.lock:
            return next(self._pieces)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def reply(self) -> "Reply":
        """The reply so far; all of it once the stream has ended."""
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
        """End the reply before its next token. Any thread may call this; it returns at once."""
        self._cancelled = True
        self._drawing.cancel()

    def close(self) -> None:
        """End the stream where it is. Closing it again does nothing."""
        with self._chat.lock:
            self._pieces.close()
            self._settle()  # a generator that has not started does not run its `finally`

    def _draw(self, offset: int) -> "ReplyStream":
        chat = self._chat
        sampling = chat.draw(self._retries + offset)
        # Evaluation lets loops run, because it counts them; here somebody reads the reply.
        return chat.generator.stream(self._prompt.ids, sampling, stop_loops=True)

    def _run(self) -> Steps[str]:
        failed = True  # unless the end is reached, or the reader ends the reply
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
            failed = False  # ended early: the text so far stays
            raise
        finally:
            self._settle(failed=failed)

    def _settle(self, *, failed: bool = False) -> None:
        """Add the reply to the chat, or undo the message if there is no reply."""
        if self._reply:
            return
        chat = self._chat
        chat.open_stream = None
        # After an error, as with scores that are not finite, the text so far means nothing.
        reply = self._drawing.reply
        text = "" if failed else reply.text.strip()
        earlier = [turn.content for turn in chat.session.turns if turn.role == "assistant"]
        self._reply = dataclasses.replace(
            reply,
            text=text,
            left_window=self._prompt.left,
            repeated=len(text.split()) > MOST_WORDS_IGNORED
            and _words(text) in map(_words, earlier),
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

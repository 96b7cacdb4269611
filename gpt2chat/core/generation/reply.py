"""Turn drawn tokens into a reply: decode whole characters, find its end, notice loops."""

import codecs
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from gpt2chat.core.generation.sampling import Choice
from gpt2chat.core.text.tokens import STOP_IDS, token_bytes

LONGEST_LOOP = 96
"""Length in tokens of the longest passage whose repetition is noticed."""
LOOP_TIMES = 3
"""Number of times in a row that a passage of a loop must occur at least."""
LOOP_TOKENS = 32
"""Tokens that these occurrences must have together, so short passages must occur more often."""

FinishReason = Literal["stop", "length", "window", "loop", "cancelled"]
"""Why a reply ended: with a stop token or text, at `max_new_tokens`, at the model's last position,
because it repeated itself, or because the caller stopped it."""


@dataclass(frozen=True)
class Reply:
    """A model's reply, complete or as far as it got; `str(reply)` is its text."""

    text: str
    """The text, without half a character at its end. `Chat` strips white space around it."""
    ids: tuple[int, ...]
    """Token ids without the stop token. Those of a stop text are included."""
    finish_reason: FinishReason
    """Why the reply ended. The repeats of a loop are neither in `text` nor in `ids`."""
    first_seconds: float
    """Seconds from the start to the first token: the prompt's forward pass. 0 before it."""
    seconds: float
    """Seconds from the start to the last token."""
    tokens: int
    """Number of generated tokens, including the stop token and the repeats of a loop."""
    choices: tuple[Choice, ...] = ()
    """The tokens with their log-probabilities, if these were requested."""
    prompt_tokens: int = 0
    """Number of tokens that the model read before it answered."""
    left_window: int = 0
    """Number of earlier messages that left the window to make room for this turn."""
    repeated: bool = False
    """Whether an earlier reply of the same chat has the same text."""

    def __str__(self) -> str:
        return self.text

    @property
    def stopped(self) -> bool:
        """Whether the model ended the reply itself, rather than a limit."""
        return self.finish_reason == "stop"

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second after the first one; 0 if there are none."""
        decoding = self.seconds - self.first_seconds
        return (self.tokens - 1) / decoding if self.tokens > 1 and decoding > 0 else 0.0


class ReplyBuilder:
    """A reply that grows token by token.

    Args:
        prompt_tokens: Length of the prompt, for the reply to report.
        limit: What ends the reply if the model does not.
    """

    def __init__(
        self,
        stop: Sequence[str] = (),
        *,
        stop_loops: bool = False,
        prompt_tokens: int = 0,
        limit: Literal["length", "window"] = "length",
    ):
        self.ids: list[int] = []
        self.ended = False
        """Whether a stop token, a stop text or a loop has ended the reply."""
        self._stop = stop
        self._loop = LoopWatch() if stop_loops else None
        self._prompt_tokens = prompt_tokens
        self._limit: Literal["length", "window"] = limit
        self._choices: list[Choice] = []
        # Invalid bytes are dropped. As U+FFFD in the history they would lead the model to repeat
        # them.
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._text = ""
        self._shown = 0
        self._finish: FinishReason = "cancelled"
        self._cut: int | None = None
        self._tokens = 0
        self.begin()

    def begin(self) -> None:
        """Start the clock."""
        self._begun = self._first = self._last = time.perf_counter()

    def add(self, choice: Choice) -> str:
        """Add a token, and return the text that can be shown now, which is often empty."""
        self._last = time.perf_counter()
        if not self._tokens:
            self._first = self._last
        self._tokens += 1
        if choice.token in STOP_IDS:
            self.ended, self._finish = True, "stop"
            return self._show(len(self._text))
        self.ids.append(choice.token)
        if choice.logprob is not None:
            self._choices.append(choice)
        before = len(self._text)
        self._text += self._decoder.decode(token_bytes()[choice.token])
        # Only stop texts that end within the new text are searched for.
        starts = [self._text.find(stop, max(before - len(stop) + 1, 0)) for stop in self._stop]
        starts = [start for start in starts if start >= 0]
        if starts:
            self._text = self._text[: min(starts)]
            self.ended, self._finish = True, "stop"
            return self._show(len(self._text))
        if self._loop is not None:
            self._cut = self._loop.repeats(self.ids)
            if self._cut is not None:
                self.ended, self._finish = True, "loop"
        # Text that may be the beginning of a stop text is held back.
        beginnings = (stop[:length] for stop in self._stop for length in range(1, len(stop)))
        matches = (part for part in beginnings if self._text.endswith(part))
        return self._show(len(self._text) - max(map(len, matches), default=0))

    def end_at_limit(self) -> str:
        """End the reply at its limit, and return the text that was held back."""
        if not self.ended:
            self._finish = self._limit
        return self._show(len(self._text))

    @property
    def reply(self) -> Reply:
        """The reply so far."""
        ids, text, choices = self.ids, self._text[: self._shown], self._choices
        if self._cut is not None:
            ids, choices = ids[: -self._cut], choices[: -self._cut]
            # A loop is cut by tokens, not characters, so what is left is decoded again.
            text = b"".join(token_bytes()[token] for token in ids).decode("utf-8", "ignore")
        return Reply(
            text,
            tuple(ids),
            self._finish,
            self._first - self._begun,
            self._last - self._begun,
            self._tokens,
            tuple(choices),
            self._prompt_tokens,
        )

    def _show(self, end: int) -> str:
        """Return the text up to `end` that has not been shown yet."""
        piece = self._text[self._shown : end]
        self._shown = max(end, self._shown)
        return piece


class ReplyStream(Iterator[str]):
    """The pieces of a reply as they are generated.

    `reply` may be read at any time, also after Ctrl-C.
    """

    def __init__(
        self,
        tokens: Iterator[Choice],
        *,
        stop: Sequence[str] = (),
        stop_loops: bool = False,
        prompt_tokens: int = 0,
        limit: Literal["length", "window"] = "length",
    ):
        self._builder = ReplyBuilder(
            stop, stop_loops=stop_loops, prompt_tokens=prompt_tokens, limit=limit
        )
        self._pieces = self._run(tokens)
        self._cancelled = False

    def __next__(self) -> str:
        return next(self._pieces)

    def cancel(self) -> None:
        """End the reply before its next token; another thread may call it."""
        self._cancelled = True

    def read(self) -> Reply:
        """Read to the end, and return the complete reply."""
        for _ in self:
            pass
        return self.reply

    @property
    def reply(self) -> Reply:
        """The reply as far as it has been generated."""
        return self._builder.reply

    def _run(self, tokens: Iterator[Choice]) -> Iterator[str]:
        builder = self._builder
        # The clock starts when the first piece is asked for, which may be long after `stream`.
        builder.begin()
        if self._cancelled:
            return
        for choice in tokens:
            piece = builder.add(choice)
            if piece:
                yield piece
            if builder.ended or self._cancelled:
                return
        rest = builder.end_at_limit()
        if rest:
            yield rest


class LoopWatch:
    """Notices when tokens repeat a passage over and over."""

    def __init__(self) -> None:
        self._same = [0] * (LONGEST_LOOP + 1)
        """For each distance, how many tokens in a row equal the token at that distance before."""

    def repeats(self, ids: Sequence[int]) -> int | None:
        """Return how many tokens at the end of `ids` repeat earlier ones; None if it is no loop.

        Each call takes one more token than the last one.
        """
        repeats = None
        for distance in range(1, min(LONGEST_LOOP, len(ids) - 1) + 1):
            same = self._same[distance] + 1 if ids[-1] == ids[-1 - distance] else 0
            self._same[distance] = same
            if same >= max((LOOP_TIMES - 1) * distance, LOOP_TOKENS - distance):
                # The shortest passage counts, so that as much as possible is cut off.
                repeats = repeats or same
        return repeats

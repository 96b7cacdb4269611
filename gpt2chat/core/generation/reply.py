"""Drawn tokens to the text of a reply: whole characters, where it ends, and whether it loops."""

import codecs
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpt2chat.core.generation.sampling import Choice
from gpt2chat.core.text.tokens import STOP_IDS, token_bytes

LONGEST_LOOP = 96
"""Tokens of the longest passage whose repetition is noticed."""
LOOP_TIMES = 3
"""So often a passage stands in a row before a reply counts as a loop,"""
LOOP_TOKENS = 32
"""and the row has at least so many tokens: short passages have more times."""


@dataclass(frozen=True)
class Reply:
    """What a model answered, whole or as far as it came."""

    text: str
    """As generated: white space at its ends is kept, a half character at its end is not."""
    ids: tuple[int, ...]
    """Its tokens without the stop token; a stop text, which is not in the text, is among them."""
    stopped: bool
    """The model ended it with a stop token or text; otherwise a limit or the caller did."""
    looped: bool
    """It said the same over and over, and was ended; the repeats are not in text and ids."""
    first_seconds: float
    """From the start to the first token: the prompt's forward pass. 0 before that."""
    seconds: float
    """From the start to the last token."""
    tokens: int
    """How many were generated, stop token and repeats among them."""
    choices: tuple[Choice, ...] = ()
    """With their log-probabilities, where these were asked for."""

    @property
    def tokens_per_second(self) -> float:
        """Decode speed: the tokens after the first, by the time they took; 0 if there are none."""
        decoding = self.seconds - self.first_seconds
        return (self.tokens - 1) / decoding if self.tokens > 1 and decoding > 0 else 0.0


class ReplyBuilder:
    """A reply that grows token by token."""

    def __init__(self, stop: Sequence[str] = (), *, stop_loops: bool = False):
        self.ids: list[int] = []
        self.ended = False
        """A stop token, a stop text or a loop has ended it."""
        self._stop = stop
        self._loop = LoopWatch() if stop_loops else None
        self._choices: list[Choice] = []
        # A byte sequence that is no UTF-8 says nothing, and as U+FFFD in the history the model
        # would learn to repeat it.
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._text = ""
        self._shown = 0
        self._stopped = False
        self._cut: int | None = None
        self._tokens = 0
        self.begin()

    def begin(self) -> None:
        """Start the clock."""
        self._begun = self._first = self._last = time.perf_counter()

    def add(self, choice: Choice) -> str:
        """Take a token and return the text that can be shown for it, often none."""
        self._last = time.perf_counter()
        if not self._tokens:
            self._first = self._last
        self._tokens += 1
        if choice.token in STOP_IDS:
            self.ended = self._stopped = True
            return self._show(len(self._text))
        self.ids.append(choice.token)
        if choice.logprob is not None:
            self._choices.append(choice)
        before = len(self._text)
        self._text += self._decoder.decode(token_bytes()[choice.token])
        at = _first_of(self._stop, self._text, before)
        if at is not None:
            self._text = self._text[:at]
            self.ended = self._stopped = True
            return self._show(at)
        if self._loop is not None:
            self._cut = self._loop.repeats(self.ids)
            self.ended = self._cut is not None
        return self._show(len(self._text) - _begun(self._stop, self._text))

    def rest(self) -> str:
        """Return what was held back because it could have become a stop text."""
        return self._show(len(self._text))

    @property
    def reply(self) -> Reply:
        """What there is so far."""
        ids, text, choices = self.ids, self._text[: self._shown], self._choices
        if self._cut is not None:
            ids, choices = ids[: -self._cut], choices[: -self._cut]
            text = b"".join(token_bytes()[token] for token in ids).decode("utf-8", "ignore")
        first, last = self._first - self._begun, self._last - self._begun
        looped = self._cut is not None
        return Reply(
            text, tuple(ids), self._stopped, looped, first, last, self._tokens, tuple(choices)
        )

    def _show(self, end: int) -> str:
        piece = self._text[self._shown : end]
        self._shown = max(end, self._shown)
        return piece


class ReplyStream(Iterator[str]):
    """The pieces of a reply as they come. `reply` may be read at any time, also after Ctrl-C."""

    def __init__(
        self, tokens: Iterator[Choice], *, stop: Sequence[str] = (), stop_loops: bool = False
    ):
        self._builder = ReplyBuilder(stop, stop_loops=stop_loops)
        self._pieces = self._run(tokens)
        self._cancelled = False

    def __next__(self) -> str:
        return next(self._pieces)

    def cancel(self) -> None:
        """End the reply before its next token; another thread may call it."""
        self._cancelled = True

    def read(self) -> Reply:
        """Read to the end and return the whole reply."""
        for _ in self:
            pass
        return self.reply

    @property
    def reply(self) -> Reply:
        """What has been generated so far."""
        return self._builder.reply

    def _run(self, tokens: Iterator[Choice]) -> Iterator[str]:
        builder = self._builder
        builder.begin()
        for choice in tokens:
            piece = builder.add(choice)
            if piece:
                yield piece
            if builder.ended or self._cancelled:
                return
        rest = builder.rest()
        if rest:
            yield rest


class LoopWatch:
    """Notices when tokens repeat a passage over and over."""

    def __init__(self) -> None:
        self._same = [0] * (LONGEST_LOOP + 1)
        """For each distance, how many tokens in a row are those at this distance before them."""

    def repeats(self, ids: Sequence[int]) -> int | None:
        """Take one more token, the last of `ids`; return how many tokens at their end repeat what
        stands before them if that is a loop, None if it is none."""
        found = None
        for distance in range(1, min(LONGEST_LOOP, len(ids) - 1) + 1):
            same = self._same[distance] + 1 if ids[-1] == ids[-1 - distance] else 0
            self._same[distance] = same
            if same >= max((LOOP_TIMES - 1) * distance, LOOP_TOKENS - distance):
                found = found or same
        return found


def _first_of(stops: Sequence[str], text: str, before: int) -> int | None:
    """Return where the first stop text begins, if one ends after `before`."""
    places = [text.find(stop, max(before - len(stop) + 1, 0)) for stop in stops]
    return min((place for place in places if place >= 0), default=None)


def _begun(stops: Sequence[str], text: str) -> int:
    """Return how many characters at a text's end may be the beginning of a stop text."""
    lengths = (length for stop in stops for length in range(len(stop) - 1, 0, -1))
    return max((length for length in lengths if _ends(text, stops, length)), default=0)


def _ends(text: str, stops: Sequence[str], length: int) -> bool:
    return any(length < len(stop) and text.endswith(stop[:length]) for stop in stops)

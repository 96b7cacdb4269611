"""What of a chat the model reads next: what fits the window, and what leaves it first."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from gpt2chat.core.errors import DataError
from gpt2chat.core.text.conversations import Conversation, Message
from gpt2chat.core.text.template import BOS, END_CONTEXT, START_CONTEXT, START_HEADER, Span, render
from gpt2chat.core.text.tokens import (
    encode,
    encode_conversation,
    encode_text,
    exchanges,
    fit_window,
)
from gpt2chat.core.text.wording import plural

SHORTEST_REPLY = 64
"""Tokens that a message must leave for its reply."""
USUAL_MESSAGE = 64
"""Tokens of a message that the history makes room for before it is written."""
UNWRITTEN = Message("user", "?")
"""Stands where the next message will."""


class Part(NamedTuple):
    """A stretch of the prompt: a message, or what opens and closes the context block."""

    spans: tuple[Span, ...]
    tokens: int
    leaves: bool = False
    """It is of the exchange that leaves the window next."""
    unwritten: bool = False
    """The message is still to be written: its text is in no span."""


class Layout(NamedTuple):
    """The prompt that the model reads next, part by part, and the room around it."""

    parts: tuple[Part, ...]
    window: int
    reserve: int
    """Tokens that the history leaves to the reply."""
    left: int
    """Messages of the chat that are out of the window."""
    room: int | None
    """Tokens that the next message may have before the oldest exchange leaves or, without one,
    before it is refused. None where the message is written already."""

    @property
    def tokens(self) -> int:
        """How long the prompt is."""
        return sum(part.tokens for part in self.parts)


def reserved(window: int, max_new_tokens: int) -> int:
    """Return how many tokens the history leaves to the reply: at most half the window."""
    return min(max_new_tokens, window // 2)


def fitted(conversation: Conversation, window: int, max_new_tokens: int) -> Conversation:
    """Return a prompt without the oldest exchanges, as few as make room for message and reply.

    A message of `USUAL_MESSAGE` tokens or fewer moves no exchange out: what stands before it is
    known before it is written, and can be computed meanwhile. A message that alone leaves less room
    than it should has a shorter reply, of `SHORTEST_REPLY` tokens at least.

    Raises:
        DataError: The latest message is too long for that.
    """
    reserve = reserved(window, max_new_tokens)
    spare = max(USUAL_MESSAGE - len(encode_text(conversation.user.content)), 0)
    fits = fit_window(conversation, window - reserve - spare)
    if fits is not None:
        return fits
    alone = conversation.with_history(())
    least = min(SHORTEST_REPLY, reserve)
    over = length(alone) - (window - least)
    if over > 0:
        tokens = len(encode_text(conversation.user.content))
        raise DataError(
            f"The message has {plural(tokens, 'token')}; {max(tokens - over, 0):,} fit beside the "
            f"system prompt, the document and a reply of {least}. Shorten it."
        )
    return alone


@lru_cache(maxsize=64)
def length(conversation: Conversation) -> int:
    """Return how many tokens a conversation has. The line below a prompt asks at every key."""
    return len(encode_conversation(conversation))


def over_room(head: Sequence[Message], window: int) -> int:
    """Return how many tokens a system prompt and a document have too many to stay in a window.

    Beside them stand a usual message and the shortest reply, in a small window less.
    """
    room = min(SHORTEST_REPLY, window // 2) + min(USUAL_MESSAGE, window // 8)
    return length(Conversation((*head, UNWRITTEN))) + room - window


@lru_cache(maxsize=64)
def length_before_message(prompt: Conversation) -> int:
    """Return how many tokens of a prompt stand before its latest message."""
    *before, _message, _header = _cut(render(prompt))
    return sum(len(encode(spans).ids) for spans in before)


def before_message(conversation: Conversation, window: int, max_new_tokens: int) -> list[int]:
    """Return the tokens of a prompt before its latest message, which may be `UNWRITTEN`.

    Raises:
        DataError: The latest message is too long for the window.
    """
    *before, _message, _header = _cut(render(fitted(conversation, window, max_new_tokens)))
    return [token for spans in before for token in encode(spans).ids]


def lay_out(conversation: Conversation, window: int, max_new_tokens: int) -> Layout:
    """Return how the model reads a prompt; its latest message may be `UNWRITTEN`.

    Raises:
        DataError: The latest message is too long for the window.
    """
    prompt = fitted(conversation, window, max_new_tokens)
    unwritten = prompt.user is UNWRITTEN
    groups = exchanges(prompt.history)
    parts = [Part(spans, len(encode(spans).ids)) for spans in _cut(render(prompt))]
    oldest = next((at + 1 for at, part in enumerate(parts) if _opens_block(part)), 0)
    for at in range(oldest, oldest + len(groups[0]) if groups else oldest):
        parts[at] = parts[at]._replace(leaves=True)
    if unwritten:
        message = tuple(span for span in parts[-2].spans if span.text != UNWRITTEN.content)
        parts[-2] = Part(message, len(encode(message).ids), unwritten=True)
    reserve = reserved(window, max_new_tokens)
    kept_free = reserve if groups else min(SHORTEST_REPLY, reserve)
    spare = window - kept_free - sum(part.tokens for part in parts)
    left = len(conversation.turns) - len(prompt.turns)
    return Layout(tuple(parts), window, reserve, left, max(spare, 0) if unwritten else None)


def _opens_block(part: Part) -> bool:
    return part.spans[0].control and part.spans[0].text == START_CONTEXT


def _cut(spans: list[Span]) -> Iterator[tuple[Span, ...]]:
    """Yield the spans of each part; together they are all spans."""
    part: list[Span] = []
    for span in spans:
        begins = span.control and span.text in (START_HEADER, START_CONTEXT, END_CONTEXT)
        if begins and part and part[-1].text != BOS:
            yield tuple(part)
            part = []
        part.append(span)
    yield tuple(part)

"""Fit a chat into the window: what the model reads next, and what leaves first."""

from collections.abc import Iterator
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
"""Tokens that the history leaves to the next message before it is written."""
UNWRITTEN = Message("user", "?")
"""Placeholder of the next message."""


class Part(NamedTuple):
    """A part of the prompt: a message, or the token that opens or closes the context block."""

    spans: tuple[Span, ...]
    tokens: int
    leaves: bool = False
    """Whether it belongs to the exchange that leaves the window next."""
    unwritten: bool = False
    """Whether it is the placeholder of the next message, whose text is in no span."""


class Layout(NamedTuple):
    """The prompt that the model reads next, part by part, with the room in the window."""

    parts: tuple[Part, ...]
    window: int
    reserve: int
    """Tokens that the history leaves to the reply."""
    left: int
    """Number of the chat's messages that have left the window."""
    room: int | None
    """Tokens that the next message may have before the oldest exchange leaves or, without history,
    before it is refused. None if the message is written already."""

    @property
    def tokens(self) -> int:
        """Length of the prompt."""
        return sum(part.tokens for part in self.parts)


def reserved(window: int, max_new_tokens: int) -> int:
    """Return the number of tokens that the history leaves to the reply: at most half the window."""
    return min(max_new_tokens, window // 2)


def fitted(conversation: Conversation, window: int, max_new_tokens: int) -> Conversation:
    """Return a prompt without its oldest exchanges, dropping as few as message and reply need.

    A message of `USUAL_MESSAGE` tokens or fewer drops no exchange: what comes before it is known
    before it is written, and can be computed meanwhile. A message that leaves less room than that,
    without any history, gets a shorter reply, of at least `SHORTEST_REPLY` tokens.

    Raises:
        DataError: The latest message is too long even for that.
    """
    reserve = reserved(window, max_new_tokens)
    # Were the room for a short message not kept free, each one would drop an exchange, and what was
    # computed of the prompt while the user typed would be of no use.
    spare = max(USUAL_MESSAGE - len(encode_text(conversation.user.content)), 0)
    fits = fit_window(conversation, window - reserve - spare)
    if fits is not None:
        return fits
    # Without history, the reply gives up its room before the message is refused.
    alone = conversation.with_history(())
    least = min(SHORTEST_REPLY, reserve)
    over = length(alone) - (window - least)
    if over > 0:
        tokens = len(encode_text(conversation.user.content))
        roles = {message.role for message in conversation.messages}
        also = " or the document" if "context" in roles else ""
        # Short: the prompt shows it in one line, which ends at the edge of the screen.
        raise DataError(
            f"The message has {plural(tokens, 'token')}; {max(tokens - over, 0):,} fit. "
            f"Shorten it{also}."
        )
    return alone


@lru_cache(maxsize=64)
def length(conversation: Conversation) -> int:
    """Return how many tokens a conversation has; cached, since the meter asks at every key."""
    return len(encode_conversation(conversation))


@lru_cache(maxsize=64)
def before_message(prompt: Conversation) -> tuple[int, ...]:
    """Return the tokens of a prompt before its latest message, which may be `UNWRITTEN`; cached."""
    *before, _message, _header = _split(render(prompt))
    return tuple(token for spans in before for token in encode(spans).ids)


def lay_out(conversation: Conversation, window: int, max_new_tokens: int) -> Layout:
    """Return the layout of a prompt; its latest message may be `UNWRITTEN`.

    Raises:
        DataError: The latest message is too long for the window.
    """
    prompt = fitted(conversation, window, max_new_tokens)
    unwritten = prompt.user is UNWRITTEN
    groups = exchanges(prompt.history)
    parts = [Part(spans, len(encode(spans).ids)) for spans in _split(render(prompt))]
    # The history is in the context block: its first message follows the token that opens the block.
    openers = (part.spans[0].control and part.spans[0].text == START_CONTEXT for part in parts)
    oldest = next((at + 1 for at, is_opener in enumerate(openers) if is_opener), 0)
    for at in range(oldest, oldest + len(groups[0]) if groups else oldest):
        parts[at] = parts[at]._replace(leaves=True)
    if unwritten:
        message = tuple(span for span in parts[-2].spans if span.text != UNWRITTEN.content)
        parts[-2] = Part(message, len(encode(message).ids), unwritten=True)
    reserve = reserved(window, max_new_tokens)
    for_reply = reserve if groups else min(SHORTEST_REPLY, reserve)
    spare = window - for_reply - sum(part.tokens for part in parts)
    left = len(conversation.turns) - len(prompt.turns)
    return Layout(tuple(parts), window, reserve, left, max(spare, 0) if unwritten else None)


def _split(spans: list[Span]) -> Iterator[tuple[Span, ...]]:
    """Yield the spans of each part of a prompt."""
    part: list[Span] = []
    for span in spans:
        starts_part = span.control and span.text in (START_HEADER, START_CONTEXT, END_CONTEXT)
        if starts_part and part and part[-1].text != BOS:
            yield tuple(part)
            part = []
        part.append(span)
    yield tuple(part)

"""Samples and pairs to rows of shards: fitted to the window, rendered, and checked."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gpt2chat.core.data.shards import Pair, Sample
from gpt2chat.core.text.conversations import Conversation, Preference
from gpt2chat.core.text.template import END_OF_TURN, SPECIAL_TOKENS, Span, render, to_text
from gpt2chat.core.text.tokens import EOT_ID, LONGEST_TOKEN, VOCAB, Encoded, encode, fit_window

ENDOFTEXT = "<|endoftext|>"
CONTROL_NAMES = (*SPECIAL_TOKENS, ENDOFTEXT)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a shard, and what is counted of it."""

    line: bytes
    """JSON and a line break."""
    text_hash: bytes
    """Of all that is rendered: two rows that share it are duplicates."""
    exchange_hash: bytes
    """Of the latest user message, its document and the reply (the chosen one, for a pair) alone."""
    exchange: str
    """The end of these texts, with both replies of a pair, to find what is nearly the same."""
    prompt_tokens: int
    trained_tokens: int
    """Of the reply, its end of turn included; for a pair, of both replies."""
    reply_tokens: int
    """Of the longer reply."""
    shortened: bool
    """Early turns were dropped."""
    typed_control: bool
    """The name of a control token stands in it as text."""

    @property
    def length(self) -> int:
        """Tokens of the rendered row; for a pair, of its longer side."""
        return self.prompt_tokens + self.reply_tokens


def sample_row(sample: Sample, window: int | None) -> Row | None:
    """Return a sample as a row; None where it is longer than the window without its history.

    Args:
        window: Most tokens; None takes any length.
    """
    fitted = _fitted(sample.conversation, window)
    if fitted is None:
        return None
    conversation, spans, encoded = fitted
    prompt = render(conversation.prompt)
    check(sample.id, prompt, spans, encoded, window)
    prompt_text, completion = to_text(prompt), to_text(spans[len(prompt) :])
    reply_tokens = len(encoded) - encoded.prompt_length
    fields = {
        "conversation": conversation.as_dicts(),
        "prompt": prompt_text,
        "completion": completion,
        "prompt_tokens": encoded.prompt_length,
        "completion_tokens": reply_tokens,
    }
    return _row(
        sample,
        fields,
        texts=(prompt_text, completion),
        asked=_asked(conversation),
        sizes=(encoded.prompt_length, reply_tokens, reply_tokens),
        shortened=conversation is not sample.conversation,
    )


def pair_row(pair: Pair, window: int) -> Row | None:
    """Return a pair as a row; None where a side is longer than the window without its history.

    Both sides keep the same prompt: the one that the longer side leaves room for.
    """
    sides = _fitted_sides(pair.preference, window)
    if sides is None:
        return None
    preference = Preference(sides[0].conversation.prompt, *_replies(pair.preference))
    prompt, encoded = render(preference.prompt), [side.encoded for side in sides]
    for side in sides:
        check(pair.id, prompt, side.spans, side.encoded, window)
    if encoded[0].ids == encoded[1].ids:
        raise RuntimeError(f"row {pair.id}: chosen and rejected are the same tokens")
    prompt_text, prompt_tokens = to_text(prompt), encoded[0].prompt_length
    replies = [to_text(side.spans[len(prompt) :]) for side in sides]
    lengths = [len(side) - prompt_tokens for side in encoded]
    fields = {
        "conversation": preference.prompt.as_dicts(),
        "prompt": prompt_text,
        "chosen": replies[0],
        "rejected": replies[1],
        "prompt_tokens": prompt_tokens,
        "chosen_tokens": lengths[0],
        "rejected_tokens": lengths[1],
    }
    return _row(
        pair,
        fields,
        texts=(prompt_text, *replies),
        asked=_asked(preference.prompt),
        sizes=(prompt_tokens, sum(lengths), max(lengths)),
        shortened=preference != pair.preference,
    )


class Rendered(NamedTuple):
    conversation: Conversation
    spans: list[Span]
    encoded: Encoded


def _rendered(conversation: Conversation) -> Rendered:
    spans = render(conversation)
    return Rendered(conversation, spans, encode(spans))


def _fitted(conversation: Conversation, window: int | None) -> Rendered | None:
    """Return what of a conversation fits; the same object where all of it does."""
    letters = sum(len(message.content) for message in conversation.messages)
    if window is None or letters <= window * LONGEST_TOKEN:
        # Most fit as they are; one that is far too long is not encoded to find that out.
        rendered = _rendered(conversation)
        if window is None or len(rendered.encoded) <= window:
            return rendered
    fitted = fit_window(conversation, window)
    return fitted and _rendered(fitted)


def _fitted_sides(preference: Preference, window: int) -> list[Rendered] | None:
    """Return both sides with the same prompt, the shorter of what each leaves room for."""
    replies = _replies(preference)
    prompt, sides = preference.prompt, list[Rendered]()
    for reply in replies:
        fitted = _fitted(prompt.with_reply(reply), window)
        if fitted is None:
            return None
        sides.append(fitted)
        prompt = fitted.conversation.prompt
    if sides[0].conversation.prompt != prompt:
        sides[0] = _rendered(prompt.with_reply(replies[0]))
    return sides


def _replies(preference: Preference) -> tuple[str, str]:
    return preference.chosen, preference.rejected


def check(
    row_id: str,
    prompt: Sequence[Span],
    spans: Sequence[Span],
    encoded: Encoded,
    window: int | None,
) -> None:
    """Raise RuntimeError where a row would train wrongly: a bug of ours, not the data's.

    Args:
        prompt: As a chat would render it.
        spans: Of the whole sample.
        encoded: Of these.
    """
    rules = {
        "the prompt is not the beginning of the sample": (
            spans[: len(prompt)] != prompt or any(span.trained for span in prompt)
        ),
        "no token is trained": encoded.prompt_length >= len(encoded),
        "the end of turn is not trained": encoded.ids[-1] != EOT_ID,
        "an id is outside the vocabulary": max(encoded.ids) >= VOCAB,
        "it is longer than the window": window is not None and len(encoded) > window,
    }
    for rule, broken in rules.items():
        if broken:
            raise RuntimeError(f"row {row_id}: {rule}")


def _row(
    item: Sample | Pair,
    fields: dict[str, Any],
    *,
    texts: tuple[str, ...],
    asked: str,
    sizes: tuple[int, int, int],
    shortened: bool,
) -> Row:
    values = {"id": item.id, "source": item.source, "group": item.group, **fields}
    line = json.dumps(values, ensure_ascii=False)
    contents = [message["content"] for message in fields["conversation"]]
    contents += [text.removesuffix(END_OF_TURN) for text in texts[1:]]
    return Row(
        # The name of a file, and so of a source, need not be UTF-8: such bytes become \udcff.
        line=line.encode("utf-8", "backslashreplace") + b"\n",
        text_hash=_digest(texts),
        exchange_hash=_digest((asked, texts[1])),
        exchange=_exchange(asked, texts[1:]),
        prompt_tokens=sizes[0],
        trained_tokens=sizes[1],
        reply_tokens=sizes[2],
        shortened=shortened,
        typed_control=_names_control("\0".join(contents)),
    )


def _asked(conversation: Conversation) -> str:
    """Return what the reply answers: the latest user message, and the document it speaks of."""
    document = conversation.document
    user = conversation.user.content
    return f"{user}\n{document.content}" if document else user


def _exchange(asked: str, replies: Sequence[str]) -> str:
    """Return what is compared with other rows, no more of the question than of the replies.

    With a long question whole, other answers to it would be nearly the same.
    """
    replied = "\n".join(replies)
    return f"{asked[-len(replied) :]}\n{replied}"


def _names_control(text: str) -> bool:
    return "<|" in text and any(name in text for name in CONTROL_NAMES)


def _digest(texts: Sequence[str]) -> bytes:
    return hashlib.sha256("\0".join(texts).encode()).digest()[:16]

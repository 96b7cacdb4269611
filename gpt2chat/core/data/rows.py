"""Fit samples and pairs to the window, and render them as rows of shards."""

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
    """One line of a shard, and its measurements."""

    line: bytes
    """The row as JSON, with a line break."""
    text_hash: bytes
    """Hash of the rendered row: two rows with the same one are duplicates."""
    exchange_hash: bytes
    """Hash of the latest user message, its context and the reply (a pair's chosen one)."""
    exchange: str
    """The ends of these texts, with both replies of a pair, to find near-duplicates."""
    prompt_tokens: int
    trained_tokens: int
    """Tokens of the reply with its end of turn; for a pair, of both replies."""
    reply_tokens: int
    """Tokens of the reply; for a pair, of the longer one."""
    shortened: bool
    """Whether early turns were dropped."""
    typed_control: bool
    """Whether its text contains the name of a control token."""

    @property
    def length(self) -> int:
        """Tokens of the rendered row; for a pair, with its longer reply."""
        return self.prompt_tokens + self.reply_tokens


def sample_row(sample: Sample, window: int | None) -> Row | None:
    """Return a sample as a row; None if it does not fit the window even without its history.

    Args:
        window: Most tokens; None for any length.
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
    """Return a pair as a row; None if a side does not fit the window even without its history.

    Both sides have the same prompt: the one that leaves room for the longer reply.
    """
    replies = (pair.preference.chosen, pair.preference.rejected)
    fitted_prompt, sides = pair.preference.prompt, list[Rendered]()
    for reply in replies:
        side = _fitted(fitted_prompt.with_reply(reply), window)
        if side is None:
            return None
        sides.append(side)
        fitted_prompt = side.conversation.prompt
    if sides[0].conversation.prompt != fitted_prompt:  # The rejected reply is the longer one.
        sides[0] = _rendered(fitted_prompt.with_reply(replies[0]))
    preference = Preference(fitted_prompt, *replies)
    prompt, encoded = render(preference.prompt), [side.encoded for side in sides]
    for side in sides:
        check(pair.id, prompt, side.spans, side.encoded, window)
    if encoded[0].ids == encoded[1].ids:
        raise RuntimeError(f"row {pair.id}: chosen and rejected are the same tokens")
    prompt_text, prompt_tokens = to_text(prompt), encoded[0].prompt_length
    reply_texts = [to_text(side.spans[len(prompt) :]) for side in sides]
    lengths = [len(side) - prompt_tokens for side in encoded]
    fields = {
        "conversation": preference.prompt.as_dicts(),
        "prompt": prompt_text,
        "chosen": reply_texts[0],
        "rejected": reply_texts[1],
        "prompt_tokens": prompt_tokens,
        "chosen_tokens": lengths[0],
        "rejected_tokens": lengths[1],
    }
    return _row(
        pair,
        fields,
        texts=(prompt_text, *reply_texts),
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
    """Return the part of a conversation that fits; the same object if all of it does."""
    letters = sum(len(message.content) for message in conversation.messages)
    if window is None or letters <= window * LONGEST_TOKEN:
        # Most fit as they are. One that is far too long is not encoded to find that out.
        rendered = _rendered(conversation)
        if window is None or len(rendered.encoded) <= window:
            return rendered
    fitted = fit_window(conversation, window)
    return fitted and _rendered(fitted)


def check(
    row_id: str,
    prompt: Sequence[Span],
    spans: Sequence[Span],
    encoded: Encoded,
    window: int | None,
) -> None:
    """Raise RuntimeError if a row would train wrongly, which would be a bug of this program.

    Args:
        prompt: Spans of the prompt, as a chat renders it.
        spans: Spans of the whole sample.
        encoded: The encoded `spans`.
    """
    faults = {
        "the prompt is not the beginning of the sample": (
            spans[: len(prompt)] != prompt or any(span.trained for span in prompt)
        ),
        "no token is trained": encoded.prompt_length >= len(encoded),
        "the end of turn is not trained": encoded.ids[-1] != EOT_ID,
        "an id is outside the vocabulary": max(encoded.ids) >= VOCAB,
        "it is longer than the window": window is not None and len(encoded) > window,
    }
    for fault, is_present in faults.items():
        if is_present:
            raise RuntimeError(f"row {row_id}: {fault}")


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
    text = "\0".join(contents)
    replies = "\n".join(texts[1:])
    return Row(
        # The name of a file, and so of a source, need not be UTF-8: such bytes become \udcff.
        line=line.encode("utf-8", "backslashreplace") + b"\n",
        text_hash=_digest(texts),
        exchange_hash=_digest((asked, texts[1])),
        # No more of the question than of the replies: different answers to the same long question
        # would be near-duplicates.
        exchange=f"{asked[-len(replies) :]}\n{replies}",
        prompt_tokens=sizes[0],
        trained_tokens=sizes[1],
        reply_tokens=sizes[2],
        shortened=shortened,
        typed_control="<|" in text and any(name in text for name in CONTROL_NAMES),
    )


def _asked(conversation: Conversation) -> str:
    """Return what the reply answers: the latest user message and its context."""
    document = conversation.document
    user = conversation.user.content
    return f"{user}\n{document.content}" if document else user


def _digest(texts: Sequence[str]) -> bytes:
    return hashlib.sha256("\0".join(texts).encode()).digest()[:16]

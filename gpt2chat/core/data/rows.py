"""Repair conversations and preferences, fit them to the window, and encode them as rows."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gpt2chat.core.data.shards import Kind
from gpt2chat.core.inputs.datafiles import Split
from gpt2chat.core.inputs.repair import is_destroyed, repair
from gpt2chat.core.text.conversations import Conversation, Message, Preference
from gpt2chat.core.text.template import SPECIAL_TOKENS, Span, render, to_text
from gpt2chat.core.text.tokens import EOT_ID, LONGEST_TOKEN, VOCAB, Encoded, encode, fit_window

SHORTENED = "early turns dropped"
TYPED = "control token names typed as text"
REPAIRED = "broken encoding repaired"
CONTROLS = "control characters removed"
DESTROYED = "characters lost (U+FFFD)"
REMARKS = (SHORTENED, TYPED, REPAIRED, CONTROLS, DESTROYED)
"""Remarks that a row may have."""
NO_REMARKS: frozenset[str] = frozenset()
CONTROL_NAMES = (*SPECIAL_TOKENS, "<|endoftext|>")


class Item(NamedTuple):
    """A sample or a pair that becomes a row."""

    kind: Kind
    split: Split
    id: str
    source: str
    group: str
    content: Conversation | Preference
    file: str
    line: int
    """Line of its record in the file."""
    remarks: frozenset[str] = NO_REMARKS


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a shard with its ids, and what selects it."""

    item: Item
    line: bytes
    """The row as JSON, with a line break."""
    samples: Sequence[Encoded]
    """The ids of a sample; of a pair, with the chosen and with the rejected reply."""
    text_hash: bytes
    """Hash of the rendered row: two rows with the same one are duplicates."""
    exchange_hash: bytes
    """Hash of the latest user message, its context and the reply (a pair's chosen one)."""
    exchange: str
    """The ends of these texts, with both replies of a pair, to find near-duplicates."""
    remarks: frozenset[str]


def make_row(item: Item, window: int | None) -> Row | None:
    """Return an item as a row; None if it does not fit the window even without its history.

    Both sides of a pair have the same prompt: the one that leaves room for the longer reply.

    Args:
        window: Most tokens; None for any length.
    """
    content = item.content
    if isinstance(content, Preference):
        names, replies = ("chosen", "rejected"), (content.chosen, content.rejected)
        whole = content.prompt.with_reply(content.chosen)
    else:
        names, replies = ("completion",), (content.messages[-1].content,)
        whole = content
    first = _fit(whole, window)
    if first is None:
        return None
    sides, fitted = [first], first.conversation.prompt
    if isinstance(content, Preference):
        second = _fit(fitted.with_reply(content.rejected), window)
        if second is None:
            return None
        if second.conversation.prompt != fitted:  # The rejected reply is the longer one.
            fitted = second.conversation.prompt
            first = _render(fitted.with_reply(content.chosen))
        sides = [first, second]
    spans = render(fitted)
    for side in sides:
        check(item.id, spans, side.spans, side.encoded, window)
    if len(sides) == 2 and sides[0].encoded.ids == sides[1].encoded.ids:
        raise RuntimeError(f"row {item.id}: chosen and rejected are the same tokens")
    prompt_text, prompt_tokens = to_text(spans), sides[0].encoded.prompt_length
    texts = [to_text(side.spans[len(spans) :]) for side in sides]
    shown = fitted if len(sides) == 2 else first.conversation
    values = {
        **{"id": item.id, "source": item.source, "group": item.group},
        **{"conversation": shown.as_dicts(), "prompt": prompt_text},
        **dict(zip(names, texts, strict=True)),
        "prompt_tokens": prompt_tokens,
    }
    for name, side in zip(names, sides, strict=True):
        values[f"{name}_tokens"] = len(side.encoded) - prompt_tokens
    # What the reply answers: the latest user message and its context.
    document, asked = fitted.document, fitted.user.content
    asked = f"{asked}\n{document.content}" if document else asked
    answers = "\n".join(texts)
    contents = "\0".join([*(message.content for message in fitted.messages), *replies])
    flags = {
        SHORTENED: first.conversation != whole,
        TYPED: "<|" in contents and any(name in contents for name in CONTROL_NAMES),
    }
    return Row(
        item,
        # The name of a file, and so of a source, need not be UTF-8: such bytes become \udcff.
        line=json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n",
        samples=[side.encoded for side in sides],
        text_hash=_digest(prompt_text, *texts),
        exchange_hash=_digest(asked, texts[0]),
        # No more of the question than of the replies: different answers to the same long question
        # would be near-duplicates.
        exchange=f"{asked[-len(answers) :]}\n{answers}",
        remarks=item.remarks | {remark for remark, is_set in flags.items() if is_set},
    )


class Rendered(NamedTuple):
    """A conversation as the model sees it."""

    conversation: Conversation
    spans: list[Span]
    encoded: Encoded


def _render(conversation: Conversation) -> Rendered:
    spans = render(conversation)
    return Rendered(conversation, spans, encode(spans))


def _fit(conversation: Conversation, window: int | None) -> Rendered | None:
    letters = sum(len(message.content) for message in conversation.messages)
    if window is None or letters <= window * LONGEST_TOKEN:
        # Most fit as they are. One that is far too long is not encoded to find that out.
        rendered = _render(conversation)
        if window is None or len(rendered.encoded) <= window:
            return rendered
    fitted = fit_window(conversation, window)
    return fitted and _render(fitted)


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


def repaired(content: Conversation | Preference) -> tuple[Any, frozenset[str]]:
    """Return a conversation or a preference with its texts repaired, and remarks on the repairs.

    Raises:
        RowError: A message is empty without its control characters, or both replies are the same.
    """
    prompt = content.prompt if isinstance(content, Preference) else content
    texts = [message.content for message in prompt.messages]
    if isinstance(content, Preference):
        texts += [content.chosen, content.rejected]
    # ASCII without control characters has nothing to repair.
    if all(text.isascii() and text.isprintable() for text in texts):
        return content, NO_REMARKS
    repairs = [repair(text) for text in texts]
    flags = {
        REPAIRED: any(one.encoding for one in repairs),
        CONTROLS: any(one.controls for one in repairs),
        DESTROYED: any(is_destroyed(one.text) for one in repairs),
    }
    remarks = frozenset(remark for remark, is_set in flags.items() if is_set)
    texts = [one.text for one in repairs]
    # Not strict: the two replies of a pair are behind the texts of its prompt.
    pairs = zip(prompt.messages, texts, strict=False)
    prompt = Conversation(tuple(Message(message.role, text) for message, text in pairs))
    if isinstance(content, Preference):
        return Preference(prompt, *texts[-2:]), remarks
    return prompt, remarks


def content_id(source: str, content: Conversation | Preference) -> str:
    """Return an id that depends only on the content, so that other records do not change it."""
    prompt = content.prompt if isinstance(content, Preference) else content
    replies = (content.chosen, content.rejected) if isinstance(content, Preference) else ()
    parts = [part for message in prompt.messages for part in (message.role, message.content)]
    # A repaired text has no NUL, so the texts stay separate.
    return f"{source}-{_digest(*parts, *replies).hex()[:16]}"


def opening(conversation: Conversation) -> str:
    """Return the group of a conversation: a hash of its document and first user message."""
    head: list[str] = []
    for message in conversation.messages:
        # Another system prompt does not make another question.
        if message.role != "system":
            head.append(message.content)
        if message.role == "user":
            break
    return hashlib.sha256(json.dumps(head).encode()).hexdigest()[:16]


def _digest(*texts: str) -> bytes:
    return hashlib.sha256("\0".join(texts).encode()).digest()[:16]

"""Samples and pairs to rows of shards: fitted to the window, rendered, and checked."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpt2chat.core.conversations import Conversation, Preference
from gpt2chat.core.shards import Pair, Sample
from gpt2chat.core.template import END_OF_TURN, SPECIAL_TOKENS, render, to_text
from gpt2chat.core.tokens import EOT_ID, VOCAB, Encoded, encode_conversations, fit_window

ENDOFTEXT = "<|endoftext|>"
CONTROL_NAMES = (*SPECIAL_TOKENS, ENDOFTEXT)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a shard, and what is counted of it."""

    source: str
    line: bytes
    """JSON and a line break."""
    text_hash: bytes
    """Of all that is rendered: two rows that share it are duplicates."""
    exchange_hash: bytes
    """Of the latest user message and the reply (the chosen one, for a pair) alone."""
    prompt_tokens: int
    trained_tokens: int
    """Of the reply, its end of turn included; for a pair, of both replies."""
    length: int
    """Tokens of the rendered row; for a pair, of its longer side."""
    shortened: bool
    """Early turns were dropped."""
    typed_control: bool
    """The name of a control token stands in it as text."""


def sample_rows(samples: Sequence[Sample], window: int | None) -> list[Row | None]:
    """Return a row for each sample; None where it is longer than the window without its history.

    Args:
        window: Most tokens; None takes any length.
    """
    conversations = [sample.conversation for sample in samples]
    encoded = encode_conversations([*conversations, *(c.prompt for c in conversations)])
    sides = zip(samples, encoded[: len(samples)], encoded[len(samples) :], strict=True)
    return [_sample_row(sample, whole, prompt, window) for sample, whole, prompt in sides]


def _sample_row(sample: Sample, whole: Encoded, prompt: Encoded, window: int | None) -> Row | None:
    conversation = sample.conversation
    if window is not None and len(whole) > window:
        fitted = fit_window(conversation, window)
        if fitted is None:
            return None
        conversation = fitted
        whole, prompt = encode_conversations([conversation, conversation.prompt])
    check(sample.id, whole, prompt, window)
    prompt_text = to_text(render(conversation.prompt))
    completion = to_text(render(conversation)).removeprefix(prompt_text)
    counts = {
        "prompt_tokens": whole.prompt_length,
        "completion_tokens": len(whole) - whole.prompt_length,
    }
    return _row(
        sample,
        {
            "messages": conversation.as_dicts(),
            "prompt": prompt_text,
            "completion": completion,
            **counts,
        },
        texts=(prompt_text, completion),
        exchange=(conversation.user.content, completion),
        sizes=(whole.prompt_length, counts["completion_tokens"], len(whole)),
        shortened=conversation != sample.conversation,
    )


def pair_rows(pairs: Sequence[Pair], window: int) -> list[Row | None]:
    """Return a row for each pair; None where a side is longer than the window without history.

    Both sides keep the same prompt: the one that the longer side leaves room for.
    """
    encoded = iter(encode_conversations(c for pair in pairs for c in _sides(pair.preference)))
    return [_pair_row(pair, [next(encoded) for _ in range(3)], window) for pair in pairs]


def _sides(preference: Preference) -> tuple[Conversation, Conversation, Conversation]:
    """Return the prompt alone, with the chosen reply, and with the rejected one."""
    prompt = preference.prompt
    return prompt, prompt.with_reply(preference.chosen), prompt.with_reply(preference.rejected)


def _pair_row(pair: Pair, encoded: Sequence[Encoded], window: int) -> Row | None:
    preference = pair.preference
    longer = max((1, 2), key=lambda side: len(encoded[side]))
    if len(encoded[longer]) > window:
        fitted = fit_window(_sides(preference)[longer], window)
        if fitted is None:
            return None
        preference = Preference(fitted.prompt, preference.chosen, preference.rejected)
        encoded = encode_conversations(_sides(preference))
    prompt, chosen, rejected = encoded
    for side in (chosen, rejected):
        check(pair.id, side, prompt, window)
    if chosen.ids == rejected.ids:
        raise RuntimeError(f"row {pair.id}: chosen and rejected are the same tokens")
    prompt_text = to_text(render(preference.prompt))
    replies = [
        to_text(render(preference.prompt.with_reply(reply))).removeprefix(prompt_text)
        for reply in (preference.chosen, preference.rejected)
    ]
    lengths = [len(side) - len(prompt) for side in (chosen, rejected)]
    return _row(
        pair,
        {
            "messages": preference.prompt.as_dicts(),
            "prompt": prompt_text,
            "chosen": replies[0],
            "rejected": replies[1],
            "prompt_tokens": len(prompt),
            "chosen_tokens": lengths[0],
            "rejected_tokens": lengths[1],
        },
        texts=(prompt_text, *replies),
        exchange=(preference.prompt.user.content, replies[0]),
        sizes=(len(prompt), sum(lengths), len(prompt) + max(lengths)),
        shortened=preference != pair.preference,
    )


def check(row_id: str, whole: Encoded, prompt: Encoded, window: int | None) -> None:
    """Raise RuntimeError where a row would train wrongly: a bug of ours, not the data's."""
    rules = {
        "the prompt is not the beginning of the sample": prompt.ids
        != whole.ids[: whole.prompt_length],
        "no token is trained": whole.prompt_length >= len(whole),
        "the end of turn is not trained": whole.labels[-1] != EOT_ID,
        "an id is outside the vocabulary": max(whole.ids) >= VOCAB,
        "it is longer than the window": window is not None and len(whole) > window,
    }
    for rule, broken in rules.items():
        if broken:
            raise RuntimeError(f"row {row_id}: {rule}")


def _row(
    item: Sample | Pair,
    fields: dict[str, Any],
    *,
    texts: tuple[str, ...],
    exchange: tuple[str, str],
    sizes: tuple[int, int, int],
    shortened: bool,
) -> Row:
    values = {"id": item.id, "source": item.source, "group": item.group, **fields}
    line = json.dumps(values, ensure_ascii=False)
    contents = [message["content"] for message in fields["messages"]]
    contents += [text.removesuffix(END_OF_TURN) for text in texts[1:]]
    return Row(
        source=item.source,
        line=line.encode() + b"\n",
        text_hash=_digest(texts),
        exchange_hash=_digest(exchange),
        prompt_tokens=sizes[0],
        trained_tokens=sizes[1],
        length=sizes[2],
        shortened=shortened,
        typed_control=any(name in content for content in contents for name in CONTROL_NAMES),
    )


def _digest(texts: Sequence[str]) -> bytes:
    return hashlib.sha256("\0".join(texts).encode()).digest()[:16]

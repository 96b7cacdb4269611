"""The held-out samples that models are measured on: chosen, encoded, checked against the window."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from gpt2chat.core.config.evaluation import EvalConfig
from gpt2chat.core.data.shards import Pair, Sample, read_pairs, read_samples
from gpt2chat.core.errors import CheckpointError, DataError
from gpt2chat.core.evaluation.figures import reply_bytes
from gpt2chat.core.text.conversations import Conversation
from gpt2chat.core.text.tokens import Encoded, encode_conversation, encode_conversations

HEADLINE_SOURCE = "oasst1"
SPLIT = "validation"

Item = TypeVar("Item", Sample, Pair)


@dataclass(frozen=True, kw_only=True)
class SampleCounts:
    """What the figures were measured on."""

    sources: tuple[str, ...] = ()
    """Sources of the replies."""
    replies: int = 0
    reply_tokens: int = 0
    """End-of-turn tokens included."""
    reply_bytes: int = 0
    conversations: int = 0
    """Of the reference construction."""
    different_conversations: int = 0
    cut_conversations: int = 0
    """Longer than the window: scored on their beginning."""
    pairs: int = 0


@dataclass(frozen=True, kw_only=True)
class Material:
    """The held-out samples, encoded once for all models."""

    replies: list[Sample] = field(default_factory=list[Sample])
    reply_ids: list[Encoded] = field(default_factory=list[Encoded])
    reference: list[Sample] = field(default_factory=list[Sample])
    reference_ids: list[list[int]] = field(default_factory=list[list[int]])
    """Cut to the window."""
    cut: int = 0
    pairs: list[Pair] = field(default_factory=list[Pair])
    chosen_ids: list[Encoded] = field(default_factory=list[Encoded])
    rejected_ids: list[Encoded] = field(default_factory=list[Encoded])
    prompts: list[list[int]] = field(default_factory=list[list[int]])
    """Held-out prompts to generate replies to."""
    notes: tuple[str, ...] = ()

    def counts(self) -> SampleCounts:
        """Return how much there is of each kind."""
        return SampleCounts(
            sources=tuple(sorted({sample.source for sample in self.replies})),
            replies=len(self.replies),
            reply_tokens=sum(len(ids) - ids.prompt_length for ids in self.reply_ids),
            reply_bytes=sum(map(reply_bytes, self.replies)),
            conversations=len(self.reference),
            different_conversations=len({tuple(ids) for ids in self.reference_ids}),
            cut_conversations=self.cut,
            pairs=len(self.pairs),
        )


def read_material(settings: EvalConfig, window: int) -> Material:
    """Return the samples that `settings` asks for, `settings.limit` of each kind at most.

    Args:
        window: Positions of the model with the fewest. Conversations of the reference
            construction are cut to it, so that all models score the same tokens.

    Raises:
        DataError: The shards are missing, changed or empty.
        CheckpointError: Samples are longer than the window.
    """
    notes: list[str] = []
    held_out: list[Sample] = []
    if settings.ppl or settings.generations:
        held_out = headline_samples(settings.data, notes)
    replies = draw(held_out, settings.limit, settings.seed) if settings.ppl else []
    reference = read_reference(settings, notes) if settings.ppl else []
    pairs = read_held_out_pairs(settings, notes) if settings.preferences else []
    whole = [ids.ids for ids in encode_conversations(sample.conversation for sample in reference)]
    sides = [pair.preference for pair in pairs]
    material = Material(
        replies=replies,
        reply_ids=encode_conversations(sample.conversation for sample in replies),
        reference=reference,
        reference_ids=[ids[:window] for ids in whole],
        cut=sum(len(ids) > window for ids in whole),
        pairs=pairs,
        chosen_ids=encode_conversations(side.prompt.with_reply(side.chosen) for side in sides),
        rejected_ids=encode_conversations(side.prompt.with_reply(side.rejected) for side in sides),
        prompts=draw_prompts(held_out, settings.generations, settings.seed),
        notes=tuple(notes),
    )
    check_lengths(material, window, settings.data)
    return material


def headline_samples(data: Path, notes: list[str]) -> list[Sample]:
    """Return the held-out samples of OASST1, or of all sources where it has none.

    Raises:
        DataError: The shards are missing, changed or empty.
    """
    everything = read_samples(data, SPLIT)
    if not everything:
        raise DataError(
            f"{data} has no held-out samples to measure on. Type gpt2chat prepare with "
            "--oasst1 or with a --holdout above 0."
        )
    wanted = [sample for sample in everything if sample.source == HEADLINE_SOURCE]
    if not wanted:
        sources = ", ".join(sorted({sample.source for sample in everything}))
        notes.append(f"no held-out OASST1 samples in {data}: perplexity is of {sources}")
    return wanted or everything


def read_reference(settings: EvalConfig, notes: list[str]) -> list[Sample]:
    """Return the reference construction's conversations; none where OASST1 was not prepared."""
    found = read_samples(settings.data, SPLIT, kind="reference")
    if not found:
        notes.append(f"no reference construction: {settings.data} has no OASST1 {SPLIT} split")
    return draw(found, settings.limit, settings.seed)


def read_held_out_pairs(settings: EvalConfig, notes: list[str]) -> list[Pair]:
    """Return the held-out preference pairs."""
    found = read_pairs(settings.data, SPLIT)
    if not found:
        notes.append(f"no preference accuracy: {settings.data} has no held-out pairs")
    return draw(found, settings.limit, settings.seed)


def draw(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """Return `limit` items in a drawn order, or all as they stand where there are no more.

    The order is by a hash of what is said. So the same conversation is drawn, or not, as a reply
    and as one of the reference construction, and needs computing once.
    """
    if limit is None or limit >= len(items):
        return list(items)
    return sorted(items, key=lambda item: _drawn(_conversation(item), seed))[:limit]


def draw_prompts(samples: Sequence[Sample], count: int, seed: int) -> list[list[int]]:
    """Return the ids of `count` different prompts, or of all if there are fewer."""
    prompts = {sample.conversation.prompt for sample in samples} if count else set()
    chosen = sorted(prompts, key=lambda prompt: _drawn(prompt, seed))[:count]
    return [encode_conversation(prompt).ids for prompt in chosen]


def _conversation(item: Sample | Pair) -> Conversation:
    return item.conversation if isinstance(item, Sample) else item.preference.prompt


def _drawn(conversation: Conversation, seed: int) -> bytes:
    said = json.dumps([seed, conversation.as_dicts()])
    return hashlib.sha256(said.encode()).digest()


def check_lengths(material: Material, window: int, data: Path) -> None:
    """Refuse samples that a model cannot read whole.

    Raises:
        CheckpointError: A reply, a pair or a prompt to answer is longer than the window.
    """
    whole = [*material.reply_ids, *material.chosen_ids, *material.rejected_ids]
    longer = sum(len(ids) > window for ids in whole)
    longer += sum(len(ids) >= window for ids in material.prompts)
    if longer:
        raise CheckpointError(
            f"{longer:,} held-out samples in {data} are longer than the model's window of "
            f"{window} tokens. Type gpt2chat prepare --max-length {window}."
        )

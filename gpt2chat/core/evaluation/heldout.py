"""Read the held-out samples of an evaluation: draw them, encode them, check their lengths."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from gpt2chat.core.config.evaluation import EvalConfig
from gpt2chat.core.data.shards import Pair, Sample, read_manifest, read_pairs, read_samples
from gpt2chat.core.errors import CheckpointError, DataError, call
from gpt2chat.core.evaluation.figures import reply_bytes
from gpt2chat.core.evaluation.scoring import Scored
from gpt2chat.core.text.conversations import Conversation
from gpt2chat.core.text.tokens import (
    Encoded,
    encode_conversation,
    encode_conversations,
    fit_window,
)

HEADLINE_SOURCE = "oasst1"
"""Source whose replies the headline figures are computed from, if the data has it."""
SPLIT = "validation"

Item = TypeVar("Item", Sample, Pair)


@dataclass(frozen=True, kw_only=True)
class SampleCounts:
    """How many samples the figures are computed from."""

    sources: tuple[str, ...] = ()
    """Sources of the replies."""
    replies: int = 0
    reply_tokens: int = 0
    """End-of-turn tokens included."""
    reply_bytes: int = 0
    conversations: int = 0
    """Conversations of the reference construction."""
    different_conversations: int = 0
    cut_conversations: int = 0
    """Conversations longer than the window, of which only the beginning is scored."""
    long_conversations: int = 0
    """Different ones of these, whose last reply is scored rolling and strided."""
    pairs: int = 0


@dataclass(frozen=True, kw_only=True)
class Material:
    """The held-out samples, encoded once for all models."""

    replies: list[Sample] = field(default_factory=list[Sample])
    reply_ids: list[Encoded] = field(default_factory=list[Encoded])
    reference: list[Sample] = field(default_factory=list[Sample])
    reference_ids: list[list[int]] = field(default_factory=list[list[int]])
    """Token ids of `reference`, cut to the window."""
    cut: int = 0
    """How many conversations of the reference construction were longer than the window."""
    long: list[Sample] = field(default_factory=list[Sample])
    """Different conversations that are longer than the window."""
    rolling_ids: list[Encoded] = field(default_factory=list[Encoded])
    """Those of `long` as a chat sees them, without the oldest exchanges."""
    strided: list[list[Scored]] = field(default_factory=list[list[Scored]])
    """The windows over each of `long` in which its last reply is scored."""
    pairs: list[Pair] = field(default_factory=list[Pair])
    chosen_ids: list[Encoded] = field(default_factory=list[Encoded])
    rejected_ids: list[Encoded] = field(default_factory=list[Encoded])
    prompts: list[Conversation] = field(default_factory=list[Conversation])
    """Different held-out prompts to generate replies to."""
    prompt_ids: list[list[int]] = field(default_factory=list[list[int]])
    data_sha256: str = ""
    """Hash of the shards of the split; empty if no figure needs data."""
    notes: tuple[str, ...] = ()
    """Figures that cannot be measured as asked, each with the reason."""

    def counts(self) -> SampleCounts:
        """Return the number of samples, tokens and bytes of each kind."""
        return SampleCounts(
            sources=tuple(sorted({sample.source for sample in self.replies})),
            replies=len(self.replies),
            reply_tokens=sum(len(ids) - ids.prompt_length for ids in self.reply_ids),
            reply_bytes=sum(map(reply_bytes, self.replies)),
            conversations=len(self.reference),
            different_conversations=len({tuple(ids) for ids in self.reference_ids}),
            cut_conversations=self.cut,
            long_conversations=len(self.long),
            pairs=len(self.pairs),
        )


def read_material(settings: EvalConfig, data: Path, window: int) -> Material:
    """Return the samples of a folder that `settings` asks for, at most `limit` of each kind.

    Replies are OASST1's, or those of all sources if the data has no OASST1.

    Args:
        window: Positions of the model with the fewest. Conversations of the reference
            construction are cut to it, so that all models score the same tokens.

    Raises:
        DataError: The shards are missing or changed, or hold no rows to measure.
        CheckpointError: A reply, a pair or a prompt is longer than the window.
    """
    limit, seed = settings.limit, settings.seed
    notes: list[str] = []
    samples: list[Sample] = []
    reference: list[Sample] = []
    pairs: list[Pair] = []
    # OASST1's replies only, where there are any: with other sources' the figure would depend on the
    # mixture of the data.
    if settings.ppl or settings.generations:
        samples = read_samples(data, SPLIT)
        sources = sorted({sample.source for sample in samples})
        if HEADLINE_SOURCE in sources:
            samples = [sample for sample in samples if sample.source == HEADLINE_SOURCE]
        elif samples:
            notes.append(
                f"no OASST1 {SPLIT} samples in {data}: perplexity is of {', '.join(sources)}"
            )
        else:
            notes.append(f"no perplexity and no held-out prompts: {data} has no {SPLIT} samples")
    if settings.ppl:
        reference = draw(read_samples(data, SPLIT, kind="reference"), limit, seed)
        if not reference:
            notes.append(f"no reference construction: {data} has no OASST1 {SPLIT} split")
    if settings.preferences:
        pairs = draw(read_pairs(data, SPLIT), limit, seed)
        if not pairs:
            notes.append(f"no preference accuracy: {data} has no {SPLIT} pairs")
    if not (samples or reference or pairs):
        if settings.ppl or settings.generations or settings.preferences:
            raise DataError(
                f"{data} has no {SPLIT} rows to measure. Prepare it again with `oasst1`, which has "
                "a validation split, or with `holdout` above 0.",
                setting="data",
            )
        return Material()
    replies = draw(samples, limit, seed) if settings.ppl else []
    # OASST1 has several replies to a prompt, so a prompt occurs in several samples.
    different = {sample.conversation.prompt for sample in samples}
    prompts = sorted(different, key=lambda prompt: _order(prompt, seed))[: settings.generations]
    references = encode_conversations(sample.conversation for sample in reference)
    choices = [pair.preference for pair in pairs]
    # By conversation: the reference construction has some of them several times.
    long: dict[Conversation, tuple[Sample, Encoded, list[Scored]]] = {}
    for sample, whole in zip(reference, references, strict=True):
        # A last exchange that is too long on its own could not occur in a chat.
        seen = fit_window(sample.conversation, window) if len(whole) > window else None
        if seen is not None:
            windows = strided_windows(whole, window)
            long[sample.conversation] = sample, encode_conversation(seen), windows
    # Results are comparable only if this hash is the same. Sorted, it does not depend on the order
    # of the shards in the manifest.
    shards = [shard for shard in read_manifest(data).shards if shard.split == SPLIT]
    hashes = "".join(sorted(f"{shard.kind} {shard.sha256}\n" for shard in shards))
    material = Material(
        replies=replies,
        reply_ids=encode_conversations(sample.conversation for sample in replies),
        reference=reference,
        reference_ids=[encoded.ids[:window] for encoded in references],
        cut=sum(len(encoded) > window for encoded in references),
        long=[sample for sample, _, _ in long.values()],
        rolling_ids=[ids for _, ids, _ in long.values()],
        strided=[windows for _, _, windows in long.values()],
        pairs=pairs,
        chosen_ids=encode_conversations(each.prompt.with_reply(each.chosen) for each in choices),
        rejected_ids=encode_conversations(
            each.prompt.with_reply(each.rejected) for each in choices
        ),
        prompts=prompts,
        prompt_ids=[encode_conversation(prompt).ids for prompt in prompts],
        data_sha256=hashlib.sha256(hashes.encode()).hexdigest(),
        notes=tuple(notes),
    )
    scored = [*material.reply_ids, *material.chosen_ids, *material.rejected_ids]
    longer = sum(len(ids) > window for ids in scored)
    longer += sum(len(ids) >= window for ids in material.prompt_ids)  # a reply needs a position
    if longer:
        # Not dropped: figures of other samples could not be compared.
        raise CheckpointError(
            f"{longer:,} {SPLIT} rows in {data} are longer than the model's window of {window} "
            f"tokens. Shorten them with {call('prepare', max_length=window)}.",
            setting="data",
        )
    return material


def strided_windows(sample: Encoded, window: int) -> list[Scored]:
    """Return the windows over a long sample in which each token of its reply is scored once.

    Windows begin half a window after one another, and each token is scored in the first one that
    has it.
    """
    windows: list[Scored] = []
    scored = sample.prompt_length
    for begin in range(0, len(sample), window // 2):
        end = min(begin + window, len(sample))
        if scored < end:
            windows.append((sample.ids[begin:end], scored - begin))
            scored = end
    return windows


def draw(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """Return `limit` items in a random order, or all in their own order if there are no more.

    The order is by a hash of the text. So the same conversation is drawn, or not, both as a reply
    and as one of the reference construction, and is computed once.
    """
    if limit is None or limit >= len(items):
        return list(items)

    def order(item: Item) -> bytes:
        return _order(
            item.conversation if isinstance(item, Sample) else item.preference.prompt, seed
        )

    return sorted(items, key=order)[:limit]


def _order(conversation: Conversation, seed: int) -> bytes:
    """Return a key that sorts conversations in an order that looks random but never changes."""
    # Not Python's hash of a text, which differs from process to process.
    text = json.dumps([seed, conversation.as_dicts()])
    return hashlib.sha256(text.encode()).digest()

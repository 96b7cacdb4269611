"""Make samples and pairs from records, and assign each to a split."""

import hashlib
import json
from collections.abc import Iterator
from typing import NamedTuple

from gpt2chat.core.data.shards import Kind, Pair, Sample
from gpt2chat.core.data.tally import Tally
from gpt2chat.core.errors import RowError
from gpt2chat.core.inputs.datafiles import Split
from gpt2chat.core.inputs.records import Record
from gpt2chat.core.inputs.repair import is_destroyed, repair
from gpt2chat.core.inputs.shapes import ChatShape, PreferenceShape, read_record
from gpt2chat.core.text.conversations import Conversation, Message, Preference

SHORTENED = "early turns dropped"
TYPED = "control token names typed as text"
REPAIRED = "broken encoding repaired"
CONTROLS = "control characters removed"
DESTROYED = "characters lost (U+FFFD)"
REMARKS = (SHORTENED, TYPED, REPAIRED, CONTROLS, DESTROYED)
"""Remarks that a row may have."""
NO_REMARKS: frozenset[str] = frozenset()


class Item(NamedTuple):
    """A sample or a pair, its kind and split, and the place of its record."""

    kind: Kind
    split: Split
    content: Sample | Pair
    file: str
    line: int
    remarks: frozenset[str] = NO_REMARKS


class Sides(NamedTuple):
    """The rule that divides a source's groups between training and validation."""

    split: Split
    """The source's own split that the records are in."""
    holdout: float
    """Share of the groups that go to validation."""
    seed: int

    def of(self, group: str) -> Split:
        """Return the split of a group, which depends only on the group and the seed."""
        return "validation" if held_out(group, self.holdout, self.seed) else self.split


def held_out(group: str, share: float, seed: int) -> bool:
    """Return whether a group is in the share that is held out."""
    digest = hashlib.sha256(f"{seed}\0{group}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def record_items(
    record: Record, shape: ChatShape | PreferenceShape, sides: Sides, tally: Tally
) -> Iterator[Item]:
    """Yield the samples or the pair in a record, and count what cannot be used."""
    contents, problems, unused = read_record(record.value, shape)
    items: list[Item] = []
    problems = list(problems)
    for content in contents:
        try:
            if isinstance(content, Conversation):
                conversation, remarks = repair_sample(content)
                group, row_id = opening(conversation), content_id(tally.source, conversation)
                kind, row = "sft", Sample(row_id, tally.source, group, conversation)
            else:
                pair, remarks = repair_pair(content)
                group = opening(pair.prompt)
                row_id = content_id(tally.source, pair.prompt, pair.chosen, pair.rejected)
                kind, row = "preference", Pair(row_id, tally.source, group, pair)
        except RowError as error:
            problems.append(error)
        else:
            items.append(Item(kind, sides.of(group), row, record.file, record.line, remarks))
    for number, problem in enumerate(problems):
        # A record with two problems is one unusable record.
        tally.drop(record, problem, whole=not items and number == 0)
    if items:
        tally.unused.update(unused)
    yield from items


def repair_sample(conversation: Conversation) -> tuple[Conversation, frozenset[str]]:
    """Return a conversation with its texts repaired, and remarks on the repairs.

    Raises:
        RowError: A message is empty without its control characters.
    """
    texts = [message.content for message in conversation.messages]
    repaired, remarks = _repair(texts)
    if repaired == texts:
        return conversation, remarks
    messages = zip(conversation.messages, repaired, strict=True)
    parts = tuple(Message(message.role, text) for message, text in messages)
    return Conversation(parts), remarks


def repair_pair(preference: Preference) -> tuple[Preference, frozenset[str]]:
    """Return a pair with its texts repaired, and remarks on the repairs.

    Raises:
        RowError: A message is empty, or both replies are the same after the repair.
    """
    prompt, remarks = repair_sample(preference.prompt)
    (chosen, rejected), more = _repair([preference.chosen, preference.rejected])
    return Preference(prompt, chosen, rejected), remarks | more


def _repair(texts: list[str]) -> tuple[list[str], frozenset[str]]:
    if all(text.isascii() and text.isprintable() for text in texts):
        return texts, NO_REMARKS
    repairs = [repair(text) for text in texts]
    flags = {
        REPAIRED: any(one.encoding for one in repairs),
        CONTROLS: any(one.controls for one in repairs),
        DESTROYED: any(is_destroyed(one.text) for one in repairs),
    }
    remarks = frozenset(remark for remark, is_set in flags.items() if is_set)
    return [one.text for one in repairs], remarks


def content_id(source: str, conversation: Conversation, *replies: str) -> str:
    """Return an id that depends only on the content, so that other records do not change it."""
    parts = [part for message in conversation.messages for part in (message.role, message.content)]
    # A repaired text has no NUL, so the texts stay separate.
    text = "\0".join((*parts, *replies))
    return f"{source}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def opening(conversation: Conversation) -> str:
    """Return the group of a conversation: a hash of its document and first user message."""
    head: list[str] = []
    for message in conversation.messages:
        if message.role != "system":
            head.append(message.content)
        if message.role == "user":
            break
    return hashlib.sha256(json.dumps(head).encode()).hexdigest()[:16]

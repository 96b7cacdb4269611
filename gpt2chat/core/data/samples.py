"""Records to samples and pairs, and which side of a held-out split each goes to."""

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
MENDED = "broken encoding mended"
CONTROLS = "control characters removed"
DESTROYED = "characters lost (U+FFFD)"
REMARKS = (SHORTENED, TYPED, MENDED, CONTROLS, DESTROYED)
"""What may be remarked of a row that is kept."""
NONE: frozenset[str] = frozenset()


class Item(NamedTuple):
    """A sample or pair, where it goes, and which record it comes from."""

    kind: Kind
    split: Split
    content: Sample | Pair
    file: str
    line: int
    remarks: frozenset[str] = NONE


class Sides(NamedTuple):
    """How the groups of a source are shared out between training and validation."""

    split: Split
    """The source's own split that the records stand in."""
    holdout: float
    """Share of the groups that goes to validation."""
    seed: int

    def of(self, group: str) -> Split:
        """Return where a group goes; the same answer for the same group and seed."""
        return "validation" if held_out(group, self.holdout, self.seed) else self.split


def held_out(group: str, share: float, seed: int) -> bool:
    """Return whether a group is among the share that is held out."""
    digest = hashlib.sha256(f"{seed}\0{group}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def record_items(
    record: Record, shape: ChatShape | PreferenceShape, sides: Sides, tally: Tally
) -> Iterator[Item]:
    """Yield the samples or the pair in a record; what of it cannot be used is counted."""
    contents, problems, unused = read_record(record.value, shape)
    items: list[Item] = []
    problems = list(problems)
    for content in contents:
        try:
            items.append(_item(content, record, sides, tally.source))
        except RowError as error:
            problems.append(error)
    for problem in problems:
        tally.drop(record, problem, whole=not items)
    if items:
        tally.unused.update(unused)
    yield from items


def _item(content: Conversation | Preference, record: Record, sides: Sides, source: str) -> Item:
    if isinstance(content, Conversation):
        conversation, remarks = repair_sample(content)
        group = opening(conversation)
        sample = Sample(content_id(source, conversation), source, group, conversation)
        return Item("sft", sides.of(group), sample, record.file, record.line, remarks)
    preference, remarks = repair_pair(content)
    group = opening(preference.prompt)
    row_id = content_id(source, preference.prompt, preference.chosen, preference.rejected)
    pair = Pair(row_id, source, group, preference)
    return Item("preference", sides.of(group), pair, record.file, record.line, remarks)


def repair_sample(conversation: Conversation) -> tuple[Conversation, frozenset[str]]:
    """Return a conversation with its texts mended, and what was.

    Raises:
        RowError: Nothing is left of a message without its control characters.
    """
    texts = [message.content for message in conversation.messages]
    mended, remarks = _repair(texts)
    if mended == texts:
        return conversation, remarks
    messages = zip(conversation.messages, mended, strict=True)
    parts = tuple(Message(message.role, text) for message, text in messages)
    return Conversation(parts), remarks


def repair_pair(preference: Preference) -> tuple[Preference, frozenset[str]]:
    """Return a pair with its texts mended, and what was.

    Raises:
        RowError: Nothing is left of a message, or both replies are the same now.
    """
    prompt, remarks = repair_sample(preference.prompt)
    (chosen, rejected), more = _repair([preference.chosen, preference.rejected])
    return Preference(prompt, chosen, rejected), remarks | more


def _repair(texts: list[str]) -> tuple[list[str], frozenset[str]]:
    if all(text.isascii() and text.isprintable() for text in texts):
        return texts, NONE
    repairs = [repair(text) for text in texts]
    found = {
        MENDED: any(one.encoding for one in repairs),
        CONTROLS: any(one.controls for one in repairs),
        DESTROYED: any(is_destroyed(one.text) for one in repairs),
    }
    remarks = frozenset(remark for remark, holds in found.items() if holds)
    return [one.text for one in repairs], remarks


def content_id(source: str, conversation: Conversation, *replies: str) -> str:
    """Return an id made from the content alone, so it stays when other records come and go."""
    parts = [part for message in conversation.messages for part in (message.role, message.content)]
    # A NUL cannot stand in a text that was mended, so the texts cannot run into each other.
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

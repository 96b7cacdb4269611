"""Records to samples and pairs: which shape they have, which split they go to."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from gpt2chat.core import oasst1
from gpt2chat.core.config import PrepareConfig
from gpt2chat.core.conversations import Conversation
from gpt2chat.core.errors import DataError, RowError
from gpt2chat.core.journal import Journal
from gpt2chat.core.oasst1 import TreeMessage, Trees
from gpt2chat.core.records import Record, Split
from gpt2chat.core.shapes import (
    CHAT_SHAPES,
    PREFERENCE_SHAPES,
    ChatShape,
    PreferenceShape,
    S,
    detect,
    has_keys,
)
from gpt2chat.core.shards import Kind, Pair, Sample
from gpt2chat.core.sources import Opened


class Item(NamedTuple):
    """A sample or pair and where it goes."""

    kind: Kind
    split: Split
    content: Sample | Pair


def read_items(opened: Opened, settings: PrepareConfig, journal: Journal) -> Iterator[Item]:
    """Yield all samples or pairs of a source, in the order of its records.

    Raises:
        DataError: A file cannot be read, is empty or of an unknown shape, or has no usable record.
    """
    match opened.source.content:
        case "oasst1":
            yield from _oasst1(opened, settings, journal)
        case "chat":
            yield from _chat(opened, settings.seed, journal)
        case "preference":
            yield from _preference(opened, settings.seed, journal)


def held_out(group: str, share: float, seed: int) -> bool:
    """Return whether a group goes to validation; the same answer for the same group and seed."""
    digest = hashlib.sha256(f"{seed}\0{group}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def _split(opened: Opened, split: Split, group: str, seed: int) -> Split:
    return "validation" if held_out(group, opened.holdout, seed) else split


def _chat(opened: Opened, seed: int, journal: Journal) -> Iterator[Item]:
    name = opened.source.name
    for split, record, shape in _shaped(opened, CHAT_SHAPES, journal):
        try:
            conversations = shape.convert(require_keys(record, shape.keys))
        except RowError as error:
            journal.reject(name, record, error)
            continue
        for conversation in conversations:
            group = opening(conversation)
            sample = Sample(content_id(name, conversation), name, group, conversation)
            yield Item("sft", _split(opened, split, group, seed), sample)


def _preference(opened: Opened, seed: int, journal: Journal) -> Iterator[Item]:
    name = opened.source.name
    for split, record, shape in _shaped(opened, PREFERENCE_SHAPES, journal):
        try:
            preference = shape.convert(require_keys(record, shape.keys))
        except RowError as error:
            journal.reject(name, record, error)
            continue
        group = opening(preference.prompt)
        row_id = content_id(name, preference.prompt, preference.chosen, preference.rejected)
        pair = Pair(row_id, name, group, preference)
        yield Item("preference", _split(opened, split, group, seed), pair)


def require_keys(record: Record, keys: Sequence[str]) -> dict[str, Any]:
    """Return the record's fields.

    Raises:
        RowError: One that its shape needs is missing.
    """
    missing = [key for key in keys if not has_keys(record.value, (key,))]
    if missing:
        raise RowError(f"no field {missing[0]}")
    return record.value


def _shaped(
    opened: Opened, shapes: Sequence[S], journal: Journal
) -> Iterator[tuple[Split, Record, S]]:
    """Yield the records of a source with the shape that the first of each file has."""
    name = opened.source.name
    for split in opened.splits:
        for file, records in opened.files(split):
            shape: S | None = None
            for record in journal.sound(name, file, records):
                if shape is None:
                    shape = detect(record.value, shapes)
                    if shape is None:
                        raise unknown_shape(record, opened.source.flag, shapes)
                    journal.say(name, f"{file}: shape {shape.name}")
                yield split, record, shape


def unknown_shape(
    record: Record, flag: str, shapes: Sequence[ChatShape | PreferenceShape]
) -> DataError:
    """Return what to tell the user of a record that none of the shapes fits.

    Args:
        shapes: Those that the flag takes; none for OASST1's message rows.
    """
    fields = ", ".join(record.value) or "none"
    if shapes and has_keys(record.value, oasst1.KEYS):
        advice = "These are OASST1's message rows: give them with --oasst1."
    elif flag != "--preference" and detect(record.value, PREFERENCE_SHAPES):
        advice = "These are preference pairs: give them with --preference."
    elif flag != "--chat" and detect(record.value, CHAT_SHAPES):
        advice = "These are conversations: give them with --chat."
    else:
        keys = [shape.keys for shape in shapes] or [oasst1.KEYS]
        known = "; ".join(", ".join(names) for names in keys)
        advice = f"Expected one of: {known}."
    return DataError(f"{record.where}: unknown shape, with the fields {fields}. {advice}")


def content_id(source: str, conversation: Conversation, *replies: str) -> str:
    """Return an id made from the content alone, so it stays when other records come and go."""
    text = json.dumps([conversation.as_dicts(), *replies])
    return f"{source}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def opening(conversation: Conversation) -> str:
    """Return the group of a conversation: a hash of its document and first user message."""
    messages = conversation.messages
    first_user = next(i for i, message in enumerate(messages) if message.role == "user")
    head = [message.content for message in messages[: first_user + 1] if message.role != "system"]
    return hashlib.sha256(json.dumps(head).encode()).hexdigest()[:16]


def _oasst1(opened: Opened, settings: PrepareConfig, journal: Journal) -> Iterator[Item]:
    for split in opened.splits:
        # A message can stand before its parent, so all of a split is read before the first sample.
        trees = Trees(_messages(opened, split, journal))
        best = trees.best(settings.lang) if settings.oasst1_rank == "best" else None
        yield from _replies(opened, split, trees, best, settings, journal)
        yield from _reference(opened, split, trees, settings, journal)


def _messages(opened: Opened, split: Split, journal: Journal) -> Iterator[TreeMessage]:
    name = opened.source.name
    seen: set[str] = set()
    for file, records in opened.files(split):
        for number, record in enumerate(journal.sound(name, file, records)):
            if number == 0 and not has_keys(record.value, oasst1.KEYS):
                raise unknown_shape(record, opened.source.flag, ())
            try:
                message = oasst1.parse_message(record.value, record.file, record.line)
                if message.id in seen:
                    raise RowError("message id seen before")
            except RowError as error:
                journal.reject(name, record, error)
                continue
            seen.add(message.id)
            yield message


def _replies(
    opened: Opened,
    split: Split,
    trees: Trees,
    best: frozenset[str] | None,
    settings: PrepareConfig,
    journal: Journal,
) -> Iterator[Item]:
    """Yield a sample for each reply. Ranks choose among training replies only, so that what is
    measured on stays the same."""
    name = opened.source.name
    for reply in trees.replies():
        group = trees.group(reply)
        goes_to = _split(opened, split, group, settings.seed)
        try:
            conversation = trees.sample(reply, settings.lang, best if goes_to == "train" else None)
        except RowError as error:
            journal.reject(name, _record(reply), error)
        else:
            yield Item("sft", goes_to, Sample(reply.id, name, group, conversation))


def _record(message: TreeMessage) -> Record:
    return Record(message.file, message.line, {"message_id": message.id, "text": message.text})


def _reference(
    opened: Opened, split: Split, trees: Trees, settings: PrepareConfig, journal: Journal
) -> Iterator[Item]:
    name = opened.source.name
    for message, path in trees.reference(settings.lang):
        group = trees.group(message)
        if _split(opened, split, group, settings.seed) == "validation":
            try:
                conversation = oasst1.to_conversation(path)
            except RowError as error:
                journal.drop(name, f"reference set: {error.reason}")
            else:
                sample = Sample(message.id, name, group, conversation)
                yield Item("reference", "validation", sample)

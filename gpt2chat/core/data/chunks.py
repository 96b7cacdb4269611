"""Divide the records of all sources into chunks, always in the same order, and convert a chunk.

`convert` is a pure function: the same chunk gives the same part in any process.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import NamedTuple

from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.data.counts import Counts, dropped_line
from gpt2chat.core.data.near import signatures
from gpt2chat.core.data.rows import Item, Row, content_id, make_row, opening, repaired
from gpt2chat.core.data.shards import Kind
from gpt2chat.core.data.store import Part, make_part
from gpt2chat.core.errors import DataError, RowError
from gpt2chat.core.inputs import oasst1
from gpt2chat.core.inputs.datafiles import Split
from gpt2chat.core.inputs.oasst1 import Thread, TreeMessage, Trees
from gpt2chat.core.inputs.records import Record, Records
from gpt2chat.core.inputs.shapes import (
    CHAT_SHAPES,
    PREFERENCE_SHAPES,
    Shape,
    detect,
    has_keys,
    read_record,
    shape_named,
)
from gpt2chat.core.inputs.sources import SHAPES, Opened
from gpt2chat.core.text.conversations import Preference

Report = Callable[..., None]
"""Takes a source, a note for the user, and the share of all input that has been read."""

DETECTION_RECORDS = 20
"""Records among which a shape is detected: the first ones may lack a field."""
THREADS = 2_000
"""Threads of OASST1 in a chunk."""
READING_SHARE = 0.3
"""Share of reading in the work on OASST1's messages, for the progress display."""
TOO_LONG = "longer than the window"
REPORTED_REPLY = 200
"""Characters of a dropped reply that `dropped.jsonl` shows."""


class Holdout(NamedTuple):
    """The rule that divides a source's groups between training and validation."""

    split: Split
    """The source's own split that the records are in."""
    share: float
    """Share of the groups that go to validation."""
    seed: int

    def split_of(self, group: str) -> Split:
        """Return the split of a group, which depends only on the group and the seed."""
        # Not `hash`, whose values differ from process to process.
        digest = hashlib.sha256(f"{self.seed}\0{group}".encode()).digest()
        is_held_out = int.from_bytes(digest[:8]) < self.share * 2**64
        return "validation" if is_held_out else self.split


@dataclass(slots=True)
class Chunk:
    """What one worker converts at a time, with all that it needs to know."""

    source: str
    file: str
    done: float
    """Share of all input that has been read, including this chunk; negative if unknown."""
    holdout: Holdout
    window: int
    signed: bool
    """Whether near-duplicates are looked for."""
    records: Records | None = None
    shape: Shape | None = None
    """Usual shape of the records; None if none could be read, and for feedback."""
    others: tuple[Shape, ...] = ()
    """Shapes of the records that do not have the usual one."""
    threads: list[Thread] = field(default_factory=list[Thread])
    """OASST1's threads, in place of records."""
    kind: Kind = "sft"
    """What the threads become."""
    counts: Counts = field(default_factory=Counts)
    """What was dropped before."""


def convert(chunk: Chunk) -> Part:
    """Return the rows of a chunk, and count what cannot be used."""
    counts = chunk.counts
    items = _record_items(chunk) if chunk.records else _thread_items(chunk)
    rows: list[tuple[Row, int]] = []
    numbers: Counter[tuple[str, str, int]] = Counter()
    for item in items:
        # A record may give several rows, which share its line and differ by this number.
        place = (item.kind, item.file, item.line)
        numbers[place] += 1
        # The reference set is measured with any length, as the reference project does.
        row = make_row(item, None if item.kind == "reference" else chunk.window)
        if row is not None:
            rows.append((row, numbers[place]))
            continue
        counts.dropped[item.source][TOO_LONG] += 1
        content = item.content
        reply = content.chosen if isinstance(content, Preference) else content.messages[-1].content
        at = (item.source, item.file, item.line, TOO_LONG, reply[:REPORTED_REPLY])
        counts.lines.append(dropped_line(*at, reply=numbers[place]))
    signed = signatures([row.exchange for row, _ in rows]) if chunk.signed else None
    return make_part(chunk.source, chunk.file, chunk.done, counts, rows, signed)


def _record_items(chunk: Chunk) -> Iterator[Item]:
    counts, source = chunk.counts, chunk.source
    shapes = (*filter(None, (chunk.shape,)), *chunk.others)
    for record in chunk.records.parsed() if chunk.records else ():
        counts.records[source][record.file] += 1
        shape = detect(record.value, shapes) or chunk.shape
        if record.problem or shape is None:
            counts.drop(source, record, RowError(record.problem or "neither a sample nor a pair"))
            continue
        contents, problems, unused = read_record(record.value, shape)
        items: list[Item] = []
        problems = list(problems)
        for content in contents:
            try:
                content, remarks = repaired(content)
            except RowError as error:
                problems.append(error)
                continue
            is_pair = isinstance(content, Preference)
            # Rows that begin alike stay in one split, or training would see validation's questions.
            group = opening(content.prompt if is_pair else content)
            items.append(Item(
                "preference" if is_pair else "sft", chunk.holdout.split_of(group),
                content_id(source, content), source, group, content, record.file, record.line,
                remarks,
            ))  # fmt: skip
        for number, problem in enumerate(problems):
            # A record with two problems is one unusable record.
            counts.drop(source, record, problem, whole=not items and number == 0)
        if items:
            counts.unused[source].update(unused)
        yield from items


def _thread_items(chunk: Chunk) -> Iterator[Item]:
    source = chunk.source
    for thread in chunk.threads:
        last, row_id, remarks = thread.last, thread.last.id, frozenset[str]()
        try:
            if chunk.kind == "preference":
                content, remarks = repaired(thread.preference())
                row_id = content_id(source, content)
            elif chunk.kind == "sft":
                content, remarks = repaired(thread.conversation())
            else:
                # Not repaired: the reference project's figure is measured on published texts.
                content = thread.conversation()
        except RowError as error:
            if chunk.kind == "reference":
                chunk.counts.dropped[source][f"reference set: {error.reason}"] += 1
            else:
                drop_message(chunk.counts, source, last, error)
            continue
        split = chunk.holdout.split_of(thread.group)
        yield Item(
            chunk.kind, split, row_id, source, thread.group, content, last.file, last.line, remarks
        )


def drop_message(counts: Counts, source: str, message: TreeMessage, error: RowError) -> None:
    """Count a message of OASST1 that is dropped."""
    value = {"message_id": message.id, "text": message.text}
    counts.drop(source, Record(message.file, message.line, value), error)


def all_chunks(
    sources: Sequence[Opened], settings: PrepareConfig, report: Report
) -> Iterator[Chunk]:
    """Yield the chunks of all sources.

    Raises:
        DataError: A file cannot be read, is empty, or has an unknown shape.
        NetworkError: The connection is lost while a data set is streamed.
    """
    sizes = [opened.size(split) for opened in sources for split in opened.splits]
    # With one size unknown, a share of the others would reach 100 % too early.
    total = sum(sizes) if all(sizes) else 0
    before = 0.0

    def done(read: float) -> float:
        return min((before + read) / total, 1.0) if total else -1.0

    for opened in sources:
        for split in opened.splits:
            holdout = Holdout(split, opened.holdout, settings.seed)
            signed = settings.dedup == "near"
            chunk = Chunk(opened.source.name, "", -1.0, holdout, settings.max_length, signed)
            if opened.source.content == "oasst1":
                yield from _tree_chunks(opened, split, chunk, settings, report, done)
            else:
                yield from _record_chunks(opened, split, chunk, report, done)
            before += opened.size(split)


def _record_chunks(
    opened: Opened, split: Split, chunk: Chunk, report: Report, done: Callable[[float], float]
) -> Iterator[Chunk]:
    """Yield the records of a split's files, each with the shape that is forced or detected."""
    source, before = opened.source, 0.0
    shapes = SHAPES[source.content]
    # A file may combine data sets of several shapes, unless `shape` forces one.
    others = () if source.shape else tuple(shapes)
    if source.content == "feedback":
        report(source.name, f"{source.name}: opinions on replies")
    for file, size, parts in opened.files(split):
        shape = shape_named(source.shape, shapes) if source.shape else None
        is_announced = source.content == "feedback"
        for records in _nonempty(file, parts):
            if shape is None and source.content != "feedback":
                # Every record so far is broken.
                readable = (record for record in records.parsed() if not record.problem)
                first = list(islice(readable, DETECTION_RECORDS))
                detected = (detect(record.value, shapes) for record in first)
                shape = next(filter(None, detected), None)
                if first and shape is None:
                    raise unknown_shape(first[0], source.setting, shapes)
            if shape and not is_announced:
                forced = ", as given" if source.shape else ""
                report(source.name, f"{file}: shape {shape.title}{forced}")
                is_announced = True
            read = done(before + records.done * size)
            # Counts of its own: `replace` would give every chunk the same object.
            yield replace(
                chunk, file=file, done=read, records=records, shape=shape, others=others,
                counts=Counts(),
            )  # fmt: skip
        before += size


def _tree_chunks(
    opened: Opened,
    split: Split,
    chunk: Chunk,
    settings: PrepareConfig,
    report: Report,
    done: Callable[[float], float],
) -> Iterator[Chunk]:
    """Yield OASST1's threads: those that become samples, reference conversations, and pairs."""
    counts, name, size = Counts(), opened.source.name, opened.size(split)
    files: list[str] = []

    def messages() -> Iterator[TreeMessage]:
        before = 0.0
        for file, file_size, parts in opened.files(split):
            files.append(file)
            is_recognised = False
            for records in _nonempty(file, parts):
                for record in records.parsed():
                    counts.records[name][file] += 1
                    if not (is_recognised or record.problem):
                        # The first record that can be read shows what the file contains.
                        if oasst1.is_tree(record.value):
                            report(name, f"{file}: whole trees")
                        elif not has_keys(record.value, oasst1.KEYS):
                            raise unknown_shape(record, opened.source.setting, ())
                        is_recognised = True
                    try:
                        rows = oasst1.message_rows(record)
                    except RowError as error:
                        counts.drop(name, record, error)
                        continue
                    for row in rows:
                        try:
                            yield oasst1.parse_message(row, record.file, record.line)
                        except RowError as error:
                            counts.drop(name, replace(record, value=dict(row)), error)
                        else:
                            counts.unused[name].update(oasst1.unused_fields(row))
                report(name, "", done(READING_SHARE * (before + records.done * file_size)))
            before += file_size

    trees = Trees(messages(), settings.lang)
    for message in trees.repeated:
        record = Record(message.file, message.line, {"message_id": message.id})
        counts.drop(name, record, RowError("message id seen before"))

    def only_best(group: str) -> bool:
        # Ranks select training replies only, so that the validation split does not depend on them.
        return settings.oasst1_rank == "best" and chunk.holdout.split_of(group) == "train"

    validation = (t for t in trees.reference() if chunk.holdout.split_of(t.group) == "validation")
    outcomes: list[tuple[Kind, Iterator[tuple[TreeMessage, Thread | RowError]]]] = [
        ("sft", trees.samples(only_best)),
        ("reference", ((thread.last, thread) for thread in validation)),
        ("preference", trees.pairs() if settings.oasst1_pairs else iter(())),
    ]
    chunk.file = ", ".join(files)
    for number, (kind, found) in enumerate(outcomes):
        read = READING_SHARE + (1 - READING_SHARE) * (number + 1) / len(outcomes)
        while several := list(islice(found, THREADS)):
            threads: list[Thread] = []
            for message, outcome in several:
                if isinstance(outcome, RowError):
                    drop_message(counts, name, message, outcome)
                else:
                    threads.append(outcome)
            # The first chunk carries what was counted while all messages were read.
            yield replace(chunk, done=done(read * size), kind=kind, threads=threads, counts=counts)
            counts = Counts()
    if counts.records:  # There was not a single thread.
        yield replace(chunk, done=done(size), counts=counts)


def _nonempty(file: str, parts: Iterator[Records]) -> Iterator[Records]:
    first = next(parts, None)
    if first is None:
        raise DataError(f"{file} is empty. Give a file with records, or leave it out.")
    return chain((first,), parts)


def unknown_shape(record: Record, setting: str, shapes: Sequence[Shape]) -> DataError:
    """Return the error for a record that has none of the shapes.

    Args:
        shapes: The shapes that the setting reads; empty for OASST1's message rows.
    """
    fields = ", ".join(list(record.value)[:20])[:200] or "none"
    if shapes and (has_keys(record.value, oasst1.KEYS) or oasst1.is_tree(record.value)):
        advice = "These are OASST1's messages. Give them with `oasst1`."
    elif setting != "preference" and detect(record.value, PREFERENCE_SHAPES):
        advice = "These are preference pairs. Give them with `preference`."
    elif setting != "chat" and detect(record.value, CHAT_SHAPES):
        advice = "These are conversations. Give them with `chat`."
    else:
        known = "; ".join(shape.title for shape in shapes) or ", ".join(oasst1.KEYS)
        advice = f"Give records with one of these shapes: {known}."
    return DataError(f"{record.where}: unknown shape, with the fields {fields}. {advice}")

"""One worker's job: the records of a chunk to a part on disk."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.data.near import signatures
from gpt2chat.core.data.parts import Entry, Part, read_part, write_part
from gpt2chat.core.data.rows import Row, pair_row, sample_row
from gpt2chat.core.data.samples import SHORTENED, TYPED, Item, Sides, record_items
from gpt2chat.core.data.shards import Pair, Sample
from gpt2chat.core.data.tally import Tally, dropped_line
from gpt2chat.core.data.trees import Branches, tree_items
from gpt2chat.core.errors import RowError
from gpt2chat.core.inputs.records import Chunk
from gpt2chat.core.inputs.shapes import ChatShape, PreferenceShape, detect

TOO_LONG = "longer than the window"
DROPPED_TEXT = 200
"""Characters of a reply that is dropped which dropped.jsonl shows."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one worker does at a time."""

    stem: Path
    """Of the part to write."""
    name: str
    """Of the source."""
    sides: Sides
    task: "Records | Branches | Tally"
    """A tally is of records that have been read already, and makes no rows."""
    settings: PrepareConfig
    done: float
    """Share of all input that has been read with it; negative where that is not known."""


class Records(NamedTuple):
    """Records of a file, most of which have one shape."""

    chunk: Chunk
    shape: ChatShape | PreferenceShape | None
    """None where not one of them could be read, and for users' opinions on replies."""
    others: tuple[ChatShape | PreferenceShape, ...] = ()
    """Shapes that are tried on a record that does not have it."""


def finished(job: Job) -> Part | None:
    """Return the job's part if an earlier run has finished it."""
    return read_part(job.stem)


def run(job: Job) -> Part:
    """Do the job; the same job gives the same bytes in any process."""
    tally, items = _begun(job)
    entries = list(_entries(items, tally, job.settings.max_length))
    near = job.settings.dedup == "near"
    signed = signatures([entry.row.exchange for entry in entries]) if near else None
    return write_part(job.stem, entries, tally, signed)


def _begun(job: Job) -> tuple[Tally, Iterator[Item]]:
    match job.task:
        case Tally():
            return job.task, iter(())
        case Records():
            tally = Tally(job.name, job.task.chunk.file)
            return tally, _record_items(job.task, job.sides, tally)
        case Branches():
            tally = Tally(job.name, job.task.file)
            return tally, tree_items(job.task, job.sides, tally)


def _record_items(task: Records, sides: Sides, tally: Tally) -> Iterator[Item]:
    for record in task.chunk.records():
        tally.records += 1
        usual = (task.shape,) if task.shape else ()
        shape = detect(record.value, (*usual, *task.others)) or task.shape
        if record.problem or shape is None:
            tally.drop(record, RowError(record.problem or "neither a sample nor a pair"))
        else:
            yield from record_items(record, shape, sides, tally)


def _entries(items: Iterable[Item], tally: Tally, window: int) -> Iterator[Entry]:
    """Yield the rows of items in order; one that does not fit the window is dropped."""
    numbers: Counter[tuple[str, str, int]] = Counter()
    for item in items:
        numbers[item.kind, item.file, item.line] += 1
        number = numbers[item.kind, item.file, item.line]
        row = _row(item, window)
        if row is None:
            tally.dropped[TOO_LONG] += 1
            place = (tally.source, item.file, item.line)
            text = _reply(item)[:DROPPED_TEXT]
            tally.lines.append(dropped_line(*place, TOO_LONG, text, reply=number))
        else:
            remarks = item.remarks | _remarks(row)
            yield Entry((item.kind, item.split), row, remarks, item.line, number)


def _reply(item: Item) -> str:
    if isinstance(item.content, Pair):
        return item.content.preference.chosen
    reply = item.content.conversation.reply
    return reply.content if reply else ""


def _row(item: Item, window: int) -> Row | None:
    match item.kind:
        case "sft":
            return sample_row(cast(Sample, item.content), window)
        case "reference":
            return sample_row(cast(Sample, item.content), None)
        case "preference":
            return pair_row(cast(Pair, item.content), window)


def _remarks(row: Row) -> set[str]:
    remarks = {SHORTENED: row.shortened, TYPED: row.typed_control}
    return {remark for remark, holds in remarks.items() if holds}

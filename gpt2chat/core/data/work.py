"""Turn the records of one job into a part on disk."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.data.near import signatures
from gpt2chat.core.data.parts import Entry, Part, read_part, write_part
from gpt2chat.core.data.rows import pair_row, sample_row
from gpt2chat.core.data.samples import SHORTENED, TYPED, Item, Sides, record_items
from gpt2chat.core.data.shards import Pair
from gpt2chat.core.data.tally import Tally, dropped_line
from gpt2chat.core.data.trees import Branches, tree_items
from gpt2chat.core.errors import RowError
from gpt2chat.core.inputs.records import Chunk
from gpt2chat.core.inputs.shapes import ChatShape, PreferenceShape, detect

TOO_LONG = "longer than the window"
REPORTED_REPLY = 200
"""Characters of a dropped reply that `dropped.jsonl` shows."""


@dataclass(frozen=True, slots=True)
class Job:
    """The unit of work of one worker."""

    stem: Path
    """Path of the part to write, without a suffix."""
    name: str
    """Name of the source."""
    sides: Sides
    task: "Records | Branches | Tally"
    """What to read. A tally stands for records that were read already; its part has no rows."""
    settings: PrepareConfig
    done: float
    """Share of all input that has been read, including this job; negative if unknown."""


class Records(NamedTuple):
    """Records of a file, most of them of one shape."""

    chunk: Chunk
    shape: ChatShape | PreferenceShape | None
    """Usual shape; None if no record could be read, and for feedback."""
    others: tuple[ChatShape | PreferenceShape, ...] = ()
    """Shapes of the records that do not have the usual one."""


def finished(job: Job) -> Part | None:
    """Return the job's part if an earlier run has finished it."""
    return read_part(job.stem)


def run(job: Job) -> Part:
    """Do the job. The same job gives the same bytes in any process."""
    match job.task:
        case Tally():
            tally, items = job.task, iter(())
        case Records():
            tally = Tally(job.name, job.task.chunk.file)
            items = _record_items(job.task, job.sides, tally)
        case Branches():
            tally = Tally(job.name, job.task.file)
            items = tree_items(job.task, job.sides, tally)
    entries = list(_entries(items, tally, job.settings.max_length))
    near = job.settings.dedup == "near"
    signed = signatures([entry.row.exchange for entry in entries]) if near else None
    return write_part(job.stem, entries, tally, signed)


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
    """Yield the rows of items in order, without those that do not fit the window."""
    numbers: Counter[tuple[str, str, int]] = Counter()
    for item in items:
        numbers[item.kind, item.file, item.line] += 1
        number = numbers[item.kind, item.file, item.line]
        if isinstance(item.content, Pair):
            row = pair_row(item.content, window)
            reply = item.content.preference.chosen
        else:
            # The reference set is measured with any length, as the reference project does.
            row = sample_row(item.content, None if item.kind == "reference" else window)
            message = item.content.conversation.reply
            reply = message.content if message else ""
        if row is None:
            tally.dropped[TOO_LONG] += 1
            place = (tally.source, item.file, item.line)
            text = reply[:REPORTED_REPLY]
            tally.lines.append(dropped_line(*place, TOO_LONG, text, reply=number))
        else:
            flags = {SHORTENED: row.shortened, TYPED: row.typed_control}
            remarks = item.remarks | {remark for remark, is_set in flags.items() if is_set}
            yield Entry((item.kind, item.split), row, remarks, item.line, number)

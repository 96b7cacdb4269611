"""Divide the records of all sources into jobs for the workers, always in the same order."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.data.journal import Journal
from gpt2chat.core.data.samples import Sides
from gpt2chat.core.data.tally import Tally
from gpt2chat.core.data.trees import BRANCH_ROWS, Branches, What
from gpt2chat.core.data.work import Job, Records, finished, run
from gpt2chat.core.errors import DataError, RowError
from gpt2chat.core.inputs import oasst1
from gpt2chat.core.inputs.datafiles import Split
from gpt2chat.core.inputs.forest import Forest
from gpt2chat.core.inputs.oasst1 import (
    TreeMessage,
    is_tree,
    parse_message,
    tree_rows,
    unused_fields,
)
from gpt2chat.core.inputs.records import Chunk, Record
from gpt2chat.core.inputs.shapes import (
    CHAT_SHAPES,
    PREFERENCE_SHAPES,
    ChatShape,
    PreferenceShape,
    detect,
    has_keys,
    shape_named,
)
from gpt2chat.core.inputs.sources import SHAPES, Opened

Shapes = Sequence[ChatShape | PreferenceShape]

DETECTION_RECORDS = 20
"""Records among which a shape is detected: the first ones may lack a field."""
READING_SHARE = 0.3
"""Share of reading in the work on OASST1's messages, for the progress display."""


class Jobs:
    """The jobs of one run, each with its records and the file name of its part."""

    def __init__(
        self, sources: Sequence[Opened], settings: PrepareConfig, work: Path, journal: Journal
    ):
        self._sources = sources
        self._settings = settings
        self._work = work
        self._journal = journal
        self._number = 0
        sizes = [opened.size(split) for opened in sources for split in opened.splits]
        self._total = sum(sizes) if all(sizes) else 0
        self._before = 0

    def __iter__(self) -> Iterator[Job]:
        """Yield all jobs.

        Raises:
            DataError: A file cannot be read, is empty, or has an unknown shape.
            NetworkError: The connection is lost while a data set is streamed.
        """
        for opened in self._sources:
            for split in opened.splits:
                sides = Sides(split, opened.holdout, self._settings.seed)
                if opened.source.content == "oasst1":
                    yield from self._forest(opened, split, sides)
                else:
                    yield from self._records(opened, split, sides)
                self._before += opened.size(split)

    def _job(self, name: str, sides: Sides, task: Records | Branches | Tally, read: float) -> Job:
        self._number += 1
        stem = self._work / f"{self._number:06}"
        return Job(stem, name, sides, task, self._settings, self._done(read))

    def _done(self, read: float) -> float:
        return min((self._before + read) / self._total, 1.0) if self._total else -1.0

    def _records(self, opened: Opened, split: Split, sides: Sides) -> Iterator[Job]:
        before = 0
        # A file may combine data sets of several shapes, unless `shape` forces one.
        others = () if opened.source.shape else tuple(SHAPES[opened.source.content])
        for file, size, chunks in opened.files(split):
            for chunk, shape in self._with_shape(opened, _nonempty(file, chunks)):
                task = Records(chunk, shape, others)
                yield self._job(opened.source.name, sides, task, before + chunk.done * size)
            before += size

    def _with_shape(
        self, opened: Opened, chunks: Iterable[Chunk]
    ) -> Iterator[tuple[Chunk, ChatShape | PreferenceShape | None]]:
        """Yield the chunks of a file, each with the shape that is forced or detected.

        Raises:
            DataError: None of the first readable records has a known shape.
        """
        source = opened.source
        shapes: Shapes = SHAPES[source.content]
        if source.content == "feedback":
            self._journal.say(source.name, f"{source.name}: opinions on replies")
            yield from ((chunk, None) for chunk in chunks)
            return
        shape = shape_named(source.shape, shapes) if source.shape else None
        is_announced = False
        for chunk in chunks:
            if shape is None:  # Every record so far is broken.
                readable = (record for record in chunk.records() if not record.problem)
                records = list(islice(readable, DETECTION_RECORDS))
                detected = (detect(record.value, shapes) for record in records)
                shape = next(filter(None, detected), None)
                if records and shape is None:
                    raise unknown_shape(records[0], source.setting, shapes)
            if shape and not is_announced:
                forced = ", as given" if source.shape else ""
                self._journal.say(source.name, f"{chunk.file}: shape {shape.title}{forced}")
                is_announced = True
            yield chunk, shape

    def _forest(self, opened: Opened, split: Split, sides: Sides) -> Iterator[Job]:
        """Yield the jobs on a split's trees.

        The whole split is read first, because a message may come before its parent.
        """
        path = self._work / f"{opened.source.name}-{split}.sqlite"
        jobs: list[Job] = []
        tallies: list[Tally] = []

        def repeated(message: TreeMessage) -> None:
            record = Record(message.file, message.line, {"message_id": message.id})
            tallies[-1].drop(record, RowError("message id seen before"))

        with Forest.write(
            path, self._messages(opened, split, sides, tallies, jobs), repeated
        ) as forest:
            rows = len(forest)
        name, size = opened.source.name, opened.size(split)
        yield from jobs
        files = ", ".join(dict.fromkeys(tally.file for tally in tallies))
        best = self._settings.oasst1_rank == "best"
        kinds: list[What] = ["replies", "reference"]
        if self._settings.oasst1_pairs:
            kinds.append("pairs")
        tasks = [
            Branches(path, files, what, first, first + BRANCH_ROWS, self._settings.lang, best)
            for what in kinds
            for first in range(0, rows, BRANCH_ROWS)
        ]
        for number, task in enumerate(tasks, start=1):
            share = READING_SHARE + (1 - READING_SHARE) * number / len(tasks)
            yield self._job(name, sides, task, share * size)

    def _messages(
        self,
        opened: Opened,
        split: Split,
        sides: Sides,
        tallies: list[Tally],
        jobs: list[Job],
    ) -> Iterator[TreeMessage]:
        before = 0
        for file, size, chunks in opened.files(split):
            is_recognised = False
            for chunk in _nonempty(file, chunks):
                tallies.append(Tally(opened.source.name, file))
                for record in chunk.records():
                    if not (is_recognised or record.problem):
                        # The first record that can be read shows what the file contains.
                        if is_tree(record.value):
                            self._journal.say(opened.source.name, f"{file}: whole trees")
                        elif not has_keys(record.value, oasst1.KEYS):
                            raise unknown_shape(record, opened.source.setting, ())
                        is_recognised = True
                    yield from _record_messages(record, tallies[-1])
                # Write the part now: the dropped records of a broken file could fill the memory.
                read = READING_SHARE * opened.size(split)
                jobs.append(self._job(opened.source.name, sides, tallies[-1], read))
                if finished(jobs[-1]) is None:
                    run(jobs[-1])
                tallies[-1].lines.clear()
                done = self._done(READING_SHARE * (before + chunk.done * size))
                self._journal.read(opened.source.name, tallies, done)
            before += size


def _nonempty(file: str, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    first = next(chunks, None)
    if first is None:
        raise DataError(f"{file} is empty. Give a file with records, or leave it out.")
    return chain((first,), chunks)


def _record_messages(record: Record, tally: Tally) -> Iterator[TreeMessage]:
    tally.records += 1
    if record.problem:
        tally.drop(record, RowError(record.problem))
        return
    try:
        rows = tree_rows(record.value) if is_tree(record.value) else (record.value,)
    except RowError as error:
        tally.drop(record, error)
        return
    for row in rows:
        try:
            yield parse_message(row, record.file, record.line)
        except RowError as error:
            tally.drop(replace(record, value=dict(row)), error)
        else:
            tally.unused.update(unused_fields(row))


def unknown_shape(record: Record, setting: str, shapes: Shapes) -> DataError:
    """Return the error for a record that has none of the shapes.

    Args:
        shapes: The shapes that the setting reads; empty for OASST1's message rows.
    """
    fields = ", ".join(list(record.value)[:20])[:200] or "none"
    if shapes and (has_keys(record.value, oasst1.KEYS) or is_tree(record.value)):
        advice = "These are OASST1's messages. Give them with `oasst1`."
    elif setting != "preference" and detect(record.value, PREFERENCE_SHAPES):
        advice = "These are preference pairs. Give them with `preference`."
    elif setting != "chat" and detect(record.value, CHAT_SHAPES):
        advice = "These are conversations. Give them with `chat`."
    else:
        known = "; ".join(shape.title for shape in shapes) or ", ".join(oasst1.KEYS)
        advice = f"Give records with one of these shapes: {known}."
    return DataError(f"{record.where}: unknown shape, with the fields {fields}. {advice}")

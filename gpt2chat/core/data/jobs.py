"""All records of all sources to jobs for the workers, in an order that never changes."""

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

DETECT = 20
"""Records that are looked at for a shape: the first ones may lack a field."""
INGEST = 0.3
"""Share of the work on a forest that reading its messages is, in the progress that is shown."""


class Jobs:
    """The jobs of one run: which part of the input each has, and where its part goes."""

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
            DataError: A file cannot be read, is empty, or is of an unknown shape.
            NetworkError: A data set that is streamed from the Hub breaks off.
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
        # Data sets that were put together into one file keep their shapes, unless one is forced.
        others = () if opened.source.shape else tuple(SHAPES[opened.source.content])
        for file, size, chunks in opened.files(split):
            for chunk, shape in self._shaped(opened, _nonempty(file, chunks)):
                task = Records(chunk, shape, others)
                yield self._job(opened.source.name, sides, task, before + chunk.done * size)
            before += size

    def _shaped(
        self, opened: Opened, chunks: Iterable[Chunk]
    ) -> Iterator[tuple[Chunk, ChatShape | PreferenceShape | None]]:
        """Yield a file's records with the shape that is forced, or that its first one has."""
        source = opened.source
        shapes: Shapes = SHAPES[source.content]
        if source.content == "feedback":
            self._journal.say(source.name, f"{source.name}: opinions on replies")
            yield from ((chunk, None) for chunk in chunks)
            return
        shape = shape_named(source.shape, shapes) if source.shape else None
        said = ""
        for chunk in chunks:
            shape = shape or _detected(chunk, source.setting, shapes)
            if shape and not said:
                forced = ", as given" if source.shape else ""
                said = f"{chunk.file}: shape {shape.title}{forced}"
                self._journal.say(source.name, said)
            yield chunk, shape

    def _forest(self, opened: Opened, split: Split, sides: Sides) -> Iterator[Job]:
        """Yield the jobs on a split's trees; a message can stand before its parent, so all of the
        split is read first."""
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
        tasks = list(self._branches(path, tallies, rows))
        for number, task in enumerate(tasks, start=1):
            share = INGEST + (1 - INGEST) * number / len(tasks)
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
            sound = False
            for chunk in _nonempty(file, chunks):
                tallies.append(Tally(opened.source.name, file))
                for record in chunk.records():
                    sound = sound or self._require_messages(record, opened)
                    yield from _record_messages(record, tallies[-1])
                # At once: what is dropped of a broken file could fill the memory.
                whole = INGEST * opened.size(split)
                jobs.append(self._job(opened.source.name, sides, tallies[-1], whole))
                if finished(jobs[-1]) is None:
                    run(jobs[-1])
                tallies[-1].lines.clear()
                done = self._done(INGEST * (before + chunk.done * size))
                self._journal.read(opened.source.name, tallies, done)
            before += size

    def _require_messages(self, record: Record, opened: Opened) -> bool:
        """Return whether a record can be read; the first that can has to be a message."""
        if record.problem:
            return False
        if is_tree(record.value):
            self._journal.say(opened.source.name, f"{record.file}: whole trees")
        elif not has_keys(record.value, oasst1.KEYS):
            raise unknown_shape(record, opened.source.setting, ())
        return True

    def _branches(self, path: Path, tallies: Sequence[Tally], rows: int) -> Iterator[Branches]:
        settings = self._settings
        files = dict.fromkeys(tally.file for tally in tallies)
        kinds: tuple[What, ...] = ("replies", "reference")
        best = settings.oasst1_rank == "best"
        for what in (*kinds, "pairs") if settings.oasst1_pairs else kinds:
            for first in range(0, rows, BRANCH_ROWS):
                last = first + BRANCH_ROWS
                yield Branches(path, ", ".join(files), what, first, last, settings.lang, best)


def _nonempty(file: str, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    first = next(chunks, None)
    if first is None:
        raise DataError(f"{file} is empty. Give a file with records, or leave it out.")
    return chain((first,), chunks)


def _detected(chunk: Chunk, setting: str, shapes: Shapes) -> ChatShape | PreferenceShape | None:
    """Return the shape of the first record that has one; None where none can be read.

    Raises:
        DataError: None of the first that can be read has a known shape.
    """
    sound = list(islice((record for record in chunk.records() if not record.problem), DETECT))
    found = next(filter(None, (detect(record.value, shapes) for record in sound)), None)
    if sound and found is None:
        raise unknown_shape(sound[0], setting, shapes)
    return found


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
    """Return what to tell the user of a record that none of the shapes fits.

    Args:
        shapes: Those that the setting takes; none for OASST1's message rows.
    """
    fields = ", ".join(list(record.value)[:20])[:200] or "none"
    if shapes and (has_keys(record.value, oasst1.KEYS) or is_tree(record.value)):
        advice = "These are OASST1's messages: give them with `oasst1`."
    elif setting != "preference" and detect(record.value, PREFERENCE_SHAPES):
        advice = "These are preference pairs: give them with `preference`."
    elif setting != "chat" and detect(record.value, CHAT_SHAPES):
        advice = "These are conversations: give them with `chat`."
    else:
        known = "; ".join(shape.title for shape in shapes) or ", ".join(oasst1.KEYS)
        advice = f"Expected one of: {known}."
    return DataError(f"{record.where}: unknown shape, with the fields {fields}. {advice}")

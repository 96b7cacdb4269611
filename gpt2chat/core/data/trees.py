"""OASST1's trees to samples, to the reference project's evaluation set, and to pairs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from gpt2chat.core.data.samples import Item, Sides, content_id, repair_pair, repair_sample
from gpt2chat.core.data.shards import Pair, Sample
from gpt2chat.core.data.tally import Tally
from gpt2chat.core.errors import RowError
from gpt2chat.core.inputs.forest import Forest
from gpt2chat.core.inputs.oasst1 import TreeMessage, to_conversation
from gpt2chat.core.inputs.records import Record

BRANCH_ROWS = 2_000
"""Messages whose paths one worker follows at a time."""

What = Literal["replies", "reference", "pairs"]


class Branches(NamedTuple):
    """Messages of a split, by number, whose paths become items."""

    forest: Path
    file: str
    what: What
    first: int
    last: int
    """The first that is not among them."""
    lang: str
    best: bool
    """Take the best-ranked replies only, in training."""


def tree_items(task: Branches, sides: Sides, tally: Tally) -> Iterator[Item]:
    """Yield the items of some messages, in their order; what cannot be used is rejected."""
    makers = {"replies": _replies, "reference": _reference, "pairs": _pairs}
    with Forest(task.forest) as forest:
        yield from makers[task.what](forest, task, sides, tally)


def _replies(forest: Forest, task: Branches, sides: Sides, tally: Tally) -> Iterator[Item]:
    """Ranks choose among training replies only, so that what is measured on stays the same."""
    for reply in forest.replies(task.first, task.last):
        group = forest.group(reply)
        split = sides.of(group)
        try:
            best = task.best and split == "train"
            conversation, remarks = repair_sample(forest.sample(reply, task.lang, best=best))
        except RowError as error:
            tally.drop(_record(reply), error)
        else:
            sample = Sample(reply.id, tally.source, group, conversation)
            yield Item("sft", split, sample, reply.file, reply.line, remarks)


def _record(message: TreeMessage) -> Record:
    return Record(message.file, message.line, {"message_id": message.id, "text": message.text})


def _reference(forest: Forest, task: Branches, sides: Sides, tally: Tally) -> Iterator[Item]:
    """The texts stay as they were published: the reference project's figure is measured on them."""
    for message, path in forest.reference(task.lang, task.first, task.last):
        group = forest.group(message)
        if sides.of(group) == "validation":
            try:
                conversation = to_conversation(path)
            except RowError as error:
                tally.dropped[f"reference set: {error.reason}"] += 1
            else:
                sample = Sample(message.id, tally.source, group, conversation)
                yield Item("reference", "validation", sample, message.file, message.line)


def _pairs(forest: Forest, task: Branches, sides: Sides, tally: Tally) -> Iterator[Item]:
    for prompter, found in forest.pairs(task.lang, task.first, task.last):
        try:
            if isinstance(found, RowError):
                raise found
            preference, remarks = repair_pair(found)
        except RowError as error:
            tally.drop(_record(prompter), error)
            continue
        group = forest.group(prompter)
        row_id = content_id(tally.source, preference.prompt, preference.chosen, preference.rejected)
        pair = Pair(row_id, tally.source, group, preference)
        yield Item("preference", sides.of(group), pair, prompter.file, prompter.line, remarks)

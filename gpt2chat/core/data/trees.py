"""Make samples, the reference set and pairs from OASST1's trees."""

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
    """Some messages of a split whose paths become items."""

    forest: Path
    file: str
    what: What
    first: int
    last: int
    """Row after the last of the messages."""
    lang: str
    best: bool
    """Whether training uses only the best-ranked replies."""


def tree_items(task: Branches, sides: Sides, tally: Tally) -> Iterator[Item]:
    """Yield the items of some messages, in order. A message that cannot be used is counted."""
    with Forest(task.forest) as forest:
        match task.what:
            case "replies":
                yield from _replies(forest, task, sides, tally)
            case "reference":
                yield from _reference(forest, task, sides, tally)
            case "pairs":
                yield from _pairs(forest, task, sides, tally)


def _replies(forest: Forest, task: Branches, sides: Sides, tally: Tally) -> Iterator[Item]:
    # Ranks select training replies only, so that the validation split does not depend on them.
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
    # Texts are not repaired: the reference project's figure is measured on the published ones.
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
    for prompter, outcome in forest.pairs(task.lang, task.first, task.last):
        try:
            if isinstance(outcome, RowError):
                raise outcome
            preference, remarks = repair_pair(outcome)
        except RowError as error:
            tally.drop(_record(prompter), error)
            continue
        group = forest.group(prompter)
        row_id = content_id(tally.source, preference.prompt, preference.chosen, preference.rejected)
        pair = Pair(row_id, tally.source, group, preference)
        yield Item("preference", sides.of(group), pair, prompter.file, prompter.line, remarks)

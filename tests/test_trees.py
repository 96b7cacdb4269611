"""Trees become samples, the reference project's evaluation set, and pairs of human ranks."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gpt2chat.core.data.samples import Item, Sides
from gpt2chat.core.data.shards import Pair, Sample
from gpt2chat.core.data.tally import Tally
from gpt2chat.core.data.trees import Branches, What, tree_items
from gpt2chat.core.inputs.forest import Forest
from gpt2chat.core.inputs.oasst1 import parse_message
from tests.helpers import sample_rows

ALL = Sides("validation", 0.0, 0)


def message(name: str, parent: str | None, text: str, **fields: Any) -> dict[str, Any]:
    role = "prompter" if name.startswith("u") else "assistant"
    row = {"message_id": name, "parent_id": parent, "message_tree_id": "t", "role": role}
    return {**row, "text": text, "lang": "en", "deleted": False, **fields}


def forest(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "forest.sqlite"
    messages = (parse_message(row, "a.jsonl", line) for line, row in enumerate(rows, 1))
    Forest.write(path, messages, lambda _: None).close()
    return path


def items(
    path: Path, what: What, *, best: bool = False, sides: Sides = ALL, last: int = 10**6
) -> tuple[list[Item], Tally]:
    tally = Tally("oasst1", "a.jsonl")
    task = Branches(path, "a.jsonl", what, 0, last, "en", best)
    return list(tree_items(task, sides, tally)), tally


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OASST1's English validation split."""
    rows = sample_rows("oasst1.validation.jsonl.gz", 2022)
    return forest(tmp_path_factory.mktemp("forest"), rows)


def test_every_reply_is_a_sample_once_or_counted(split: Path):
    found, tally = items(split, "replies")
    assert len(found) + sum(tally.dropped.values()) == 1243
    assert len({item.content.id for item in found}) == len(found)
    assert tally.dropped["no whole path to a root"] == 2
    assert {item.split for item in found} == {"validation"}


def test_the_reference_set_has_the_conversations_of_the_reference_project(split: Path):
    found, tally = items(split, "reference")
    assert len(found) == 1831
    assert not tally.dropped
    assert not items(split, "reference", sides=Sides("train", 0.0, 0))[0]


def test_messages_in_parts_give_the_same_items_as_all_at_once(split: Path):
    whole, _ = items(split, "replies")
    parts: list[Item] = []
    for first in range(0, 2022, 500):
        task = Branches(split, "a.jsonl", "replies", first, first + 500, "en", best=False)
        parts += tree_items(task, ALL, Tally("oasst1", "a.jsonl"))
    assert parts == whole


def test_a_tree_is_either_training_or_validation(split: Path):
    sides = Sides("train", 0.3, 0)
    found, _ = items(split, "replies", sides=sides)
    pairs, _ = items(split, "pairs", sides=sides)
    groups: dict[str, set[str]] = {"train": set(), "validation": set()}
    for item in (*found, *pairs):
        groups[item.split].add(item.content.group)
    assert groups["train"]
    assert groups["validation"]
    assert not groups["train"] & groups["validation"]


def test_ranks_select_training_replies_only(tmp_path: Path):
    rows = [
        message("u", None, "Hi"),
        message("a1", "u", "Good", rank=0),
        message("a2", "u", "Bad", rank=1),
    ]
    path = forest(tmp_path, rows)
    train = Sides("train", 0.0, 0)
    found, tally = items(path, "replies", best=True, sides=train)
    assert [item.content.id for item in found] == ["a1"]
    assert tally.dropped == {"not the best-ranked reply": 1}
    assert len(items(path, "replies", best=True)[0]) == 2


def test_a_pair_is_the_best_reply_against_the_worst(tmp_path: Path):
    rows = [
        message("u", None, "Hi"),
        message("a1", "u", "Fair", rank=1),
        message("a2", "u", "Good", rank=0),
        message("a3", "u", "Bad", rank=2),
        message("u2", "a2", "And?"),
        message("a4", "u2", "One", rank=0),
    ]
    found, tally = items(forest(tmp_path, rows), "pairs")
    (pair,) = (item.content for item in found)
    assert isinstance(pair, Pair)
    assert (pair.preference.chosen, pair.preference.rejected) == ("Good", "Bad")
    assert pair.preference.prompt.user.content == "Hi"
    assert tally.dropped == {"no ranked sibling": 1}


def test_pairs_of_the_split_are_ranked_by_people(split: Path):
    found, tally = items(split, "pairs")
    assert len(found) > 200
    assert set(Counter(item.kind for item in found)) == {"preference"}
    same = "chosen and rejected replies are the same"
    assert set(tally.dropped) <= {"no ranked sibling", "rank tie", same}


def test_broken_texts_are_repaired_in_samples_and_unchanged_in_the_reference_set(tmp_path: Path):
    broken, mended = "Ein schÃ¶ner Tag", "Ein schöner Tag"
    rows = [message("u", None, "Hi"), message("a", "u", broken)]
    path = forest(tmp_path, rows)
    (sample,), _ = items(path, "replies")
    (reference,), _ = items(path, "reference")
    assert isinstance(sample.content, Sample)
    assert isinstance(reference.content, Sample)
    assert sample.content.conversation.messages[-1].content == mended
    assert reference.content.conversation.messages[-1].content == broken
    assert sample.remarks == {"broken encoding repaired"}

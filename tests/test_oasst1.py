"""OASST1's message rows and whole trees are read as they are, or refused."""

import math
from typing import Any

import pytest

from gpt2chat.core.errors import RowError
from gpt2chat.core.inputs.oasst1 import is_tree, message_rows, parse_message, unused_fields
from gpt2chat.core.inputs.records import Record
from tests.helpers import sample_rows
from tests.test_trees import ROOT, Row, row


def tree_rows(tree: dict[str, Any]) -> list[Any]:
    return message_rows(Record("trees.jsonl", 1, tree))


def test_the_messages_of_a_tree_come_in_order_with_parents_first():
    leaves = {name: row(name, None, "assistant") for name in "bcd"}
    a = {**row("a", None, "assistant"), "replies": [leaves["b"], {**leaves["c"], "replies": None}]}
    tree = {"message_tree_id": "t", "prompt": {**ROOT, "replies": [a, leaves["d"]]}}
    found = [(m["message_id"], m["parent_id"], m["message_tree_id"]) for m in tree_rows(tree)]
    parents = {"root": None, "a": "root", "b": "a", "c": "a", "d": "root"}
    assert found == [(name, parent, "t") for name, parent in parents.items()]


def test_a_tree_without_an_id_has_the_id_of_its_root():
    tree = {"message_tree_id": None, "prompt": {**ROOT, "replies": [row("a", None, "assistant")]}}
    assert {message["message_tree_id"] for message in tree_rows(tree)} == {"root"}


def test_a_tree_may_be_deeper_than_the_recursion_limit():
    node = row("leaf", None, "assistant")
    for number in range(100_000):
        node = {**row(f"{number}", None, "prompter"), "replies": [node]}
    found = tree_rows({"message_tree_id": "t", "prompt": node})
    assert sum(1 for _ in found) == 100_001


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (None, "a message of the tree is not an object"),
        ("Hi", "a message of the tree is not an object"),
        ({**ROOT, "replies": [ROOT, None]}, "a message of the tree is not an object"),
        ({**ROOT, "replies": "Hi"}, "replies are not a list"),
        ({**ROOT, "replies": {"a": ROOT}}, "replies are not a list"),
        ({**ROOT, "message_id": None}, "message_id is not text"),
        ({**ROOT, "replies": [{**ROOT, "message_id": ["a"]}]}, "message_id is not text"),
    ],
)
def test_a_malformed_tree_gives_no_messages(prompt: object, reason: str):
    with pytest.raises(RowError, match=reason):
        tree_rows({"message_tree_id": "t", "tree_state": "growing", "prompt": prompt})


@pytest.mark.parametrize("record", [{}, ROOT, {**ROOT, "message_tree_id": "t"}, {"prompt": "Hi"}])
def test_other_records_are_not_trees(record: Row):
    assert not is_tree(record)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"text": None}, "text is not text"),
        ({"message_id": 1}, "message_id is not text"),
        ({"role": ["prompter"]}, "role is not text"),
        ({"role": "system"}, "unknown role 'system'"),
        ({"role": "x" * 1000}, "unknown role 'xxxxxxxxxxxxxxxxxxx$"),
        ({"parent_id": 1}, "parent_id is not text"),
        ({"parent_id": [[]]}, "parent_id is not text"),
        ({"message_tree_id": {}}, "message_tree_id is not text"),
        ({"lang": 1}, "lang is not text"),
        *(
            ({key: "half a pair: \ud83d"}, "text with a lone surrogate")
            for key in ("text", "message_id", "parent_id", "message_tree_id", "lang")
        ),
    ],
)
def test_a_row_that_is_not_a_message_is_refused(fields: Row, reason: str):
    with pytest.raises(RowError, match=reason):
        parse_message({**ROOT, **fields}, "a.jsonl", 1)


@pytest.mark.parametrize("key", ["message_id", "text", "role"])
def test_a_required_field_must_be_present(key: str):
    with pytest.raises(RowError, match=f"{key} is not text"):
        parse_message({k: v for k, v in ROOT.items() if k != key}, "a.jsonl", 1)


@pytest.mark.parametrize(
    ("rank", "expected"),
    [(0, 0.0), (2, 2.0), (1.5, 1.5), (-1, -1.0)]
    + [(rank, math.inf) for rank in (None, math.nan, math.inf, -math.inf, 10**400, "0", True, [])],
)
def test_a_rank_is_a_finite_number_or_unknown(rank: Any, expected: float):
    assert parse_message({**ROOT, "rank": rank}, "a.jsonl", 1).rank == expected


def test_fields_of_a_message_row_are_used_or_irrelevant_or_reported():
    (row,) = sample_rows("oasst1.validation.jsonl.gz", 1)
    assert list(unused_fields(row)) == []
    assert list(unused_fields({**row, "notes": "x"})) == ["notes"]

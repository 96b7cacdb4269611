"""JSON is parsed up to a depth that no later step trips over."""

import json
from typing import Any

import pytest

from gpt2chat.core.text.bounded_json import DEEPEST, NestedTooDeep, is_too_deep, parse_json


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


def test_json_of_the_deepest_level_is_parsed():
    assert json.dumps(parse_json(nested(DEEPEST))) == nested(DEEPEST)


@pytest.mark.parametrize("levels", [DEEPEST + 1, 500, 990, 3_000, 100_000])
def test_deeper_json_is_refused(levels: int):
    with pytest.raises(NestedTooDeep):
        parse_json(f'{{"a": {nested(levels - 1)}}}')


def test_many_brackets_next_to_each_other_are_not_deep():
    assert len(parse_json("[" + ",".join(["[{}]"] * 5_000) + "]")) == 5_000


def test_depth_counts_lists_and_objects():
    value: Any = 1
    for level in range(DEEPEST):
        value = {"a": value} if level % 2 else [value]
    assert not is_too_deep(value)
    assert is_too_deep([value])


@pytest.mark.parametrize("text", ["", "{", "[1, ]"])
def test_other_text_is_not_json(text: str):
    with pytest.raises(json.JSONDecodeError):
        parse_json(text)


def test_a_number_of_many_digits_is_refused():
    with pytest.raises(ValueError, match="digits"):
        parse_json("1" * 5_000)

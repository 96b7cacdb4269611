"""Opinions on replies become rows, and these become samples and pairs to train on."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gpt2chat.core.chat.feedback import Feedback
from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.config.training import OrpoConfig
from gpt2chat.core.data.prepare import prepare
from gpt2chat.core.data.shards import read_pairs, read_samples
from gpt2chat.core.training.train import train
from tests.helpers import ignore, talk

HI = talk("Hi")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_bad_reply_makes_a_pair_with_every_good_one(tmp_path: Path):
    feedback = Feedback(tmp_path / "new" / "a.jsonl")
    assert [feedback.bad(HI, "a"), feedback.bad(HI, "b"), feedback.good(HI, "c")] == [1, 1, 3]
    assert feedback.bad(HI, "d") == 2
    assert feedback.good(talk("Other"), "e") == 1
    pairs = {(r["chosen"], r["rejected"]) for r in rows(feedback.path) if "chosen" in r}
    assert pairs == {("c", "a"), ("c", "b"), ("c", "d")}


def test_a_file_without_a_last_line_break_does_not_swallow_the_next_row(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "Hi", "completion": "ho", "label": true}')
    Feedback(path).good(HI, "Hello.")
    assert [row["completion"] for row in rows(path)] == ["ho", "Hello."]


def test_a_pair_whose_chosen_reply_was_cut_is_marked(tmp_path: Path):
    feedback = Feedback(tmp_path / "a.jsonl")
    feedback.bad(HI, "bad", cut=True)
    feedback.good(HI, "whole")
    feedback.good(HI, "half a", cut=True)
    pairs = [(row["chosen"], row.get("cut")) for row in rows(feedback.path) if "chosen" in row]
    assert pairs == [("whole", None), ("half a", True)]


def test_an_opinion_that_changes_makes_no_pair_of_a_reply_with_itself(tmp_path: Path):
    feedback = Feedback(tmp_path / "a.jsonl")
    assert [feedback.bad(HI, "a"), feedback.good(HI, "a"), feedback.bad(HI, "b")] == [1, 1, 2]
    pairs = [(r["chosen"], r["rejected"]) for r in rows(feedback.path) if "chosen" in r]
    assert pairs == [("a", "b")]


def test_earlier_rows_of_the_file_stay(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    Feedback(path).good(HI, "a")
    Feedback(path).good(HI, "b")
    assert [row["completion"] for row in rows(path)] == ["a", "b"]


ONLY_FEEDBACK = PrepareConfig(
    oasst1="off", alpaca="off", ultrafeedback="off", feedback=("feedback.jsonl",), holdout=0
)


def test_opinions_are_prepared_and_trained_on(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    feedback = Feedback(Path("feedback.jsonl"))
    for number in range(6):
        prompt = talk("Hi", "Hello", f"What is {number} and 1?")
        feedback.bad(prompt, "I do not know.")
        feedback.good(prompt, f"It is {number + 1}.")
    manifest = prepare(ONLY_FEEDBACK, ignore).manifest
    assert manifest.counts == {
        "sft": {"feedback.jsonl": {"train": 6}},
        "preference": {"feedback.jsonl": {"train": 6}},
    }
    assert manifest.dropped == {"feedback.jsonl": {"reply labelled as bad": 6}}
    good = {f"It is {number + 1}." for number in range(6)}
    replies = {s.conversation.messages[-1].content for s in read_samples(Path("data"), "train")}
    assert replies == good
    pairs = [pair.preference for pair in read_pairs(Path("data"), "train")]
    assert {(pair.chosen in good, pair.rejected) for pair in pairs} == {(True, "I do not know.")}
    result = train(OrpoConfig(model=str(tiny_folder), device="cpu", eval_samples=0))
    assert result.samples == 6


def test_opinions_on_one_line_are_all_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    feedback = Feedback(Path("feedback.jsonl"))
    for number in range(3):
        feedback.good(talk(f"What is {number} and 1?"), f"It is {number + 1}.")
    feedback.path.write_text(feedback.path.read_text().replace("}\n{", "}{"))
    assert prepare(ONLY_FEEDBACK, ignore).manifest.rows("sft", "train") == 3


VOTES = {"runs/a": "It is 2.", "runs/b": " I do not know. ", "runs/c": "It is 2.", "runs/d": " "}


def test_a_vote_makes_pairs_that_say_whose_the_replies_are(tmp_path: Path):
    feedback = Feedback(tmp_path / "a.jsonl")
    assert feedback.vote(HI, "runs/a", VOTES, seed=7) == 1
    (row,) = rows(feedback.path)
    assert datetime.fromisoformat(row.pop("date")).tzinfo is UTC
    assert row == {
        "prompt": [{"role": "user", "content": "Hi"}],
        "chosen": "It is 2.",
        "rejected": "I do not know.",
        "chosen_model": "runs/a",
        "rejected_model": "runs/b",
        "seed": 7,
    }
    assert feedback.vote(HI, "runs/b", VOTES, seed=7) == 2


def test_a_vote_between_equal_replies_writes_nothing(tmp_path: Path):
    feedback = Feedback(tmp_path / "a.jsonl")
    assert feedback.vote(HI, "a", {"a": "Yes.", "b": "Yes. "}, seed=1) == 0
    assert not feedback.path.exists()


def test_votes_become_pairs_alongside_ratings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    feedback = Feedback(Path("feedback.jsonl"))
    for number in range(4):
        feedback.vote(talk(f"What is {number} and 1?"), "runs/a", VOTES, seed=number)
    feedback.good(talk("Hello"), "Hi.")
    manifest = prepare(ONLY_FEEDBACK, ignore).manifest
    assert manifest.counts == {
        "sft": {"feedback.jsonl": {"train": 1}},
        "preference": {"feedback.jsonl": {"train": 4}},
    }
    pairs = [pair.preference for pair in read_pairs(Path("data"), "train")]
    assert {(pair.chosen, pair.rejected) for pair in pairs} == {("It is 2.", "I do not know.")}

"""`/compare`: blind, with one seed, and what a vote does to the chat, the file and the tally."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2chat.core.chat.chat import Chat
from gpt2chat.core.chat.model import ChatModel
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.errors import CheckpointError, ReplyError
from gpt2chat.core.generation.generate import Generator, ReplyStream
from gpt2chat.core.generation.sampling import Choice
from gpt2chat.core.text.tokens import EOT_ID, encode_text
from gpt2chat.dialogue.commands import take
from gpt2chat.dialogue.dialogue import Dialogue
from gpt2chat.dialogue.models import Models
from tests.helpers import tiny_model

FEEDBACK = Path("feedback.jsonl")
GENERATORS = {
    name: Generator(tiny_model(seed=at, positions=1024 if at else 900), torch.device("cpu"))
    for at, name in enumerate(("one", "two", "three"))
}
Stream = Callable[..., ReplyStream]
Capture = pytest.CaptureFixture[str]
Votes = Callable[..., tuple[str, str]]


def load(name: str) -> ChatModel:
    if name not in GENERATORS:
        raise CheckpointError(f"--model {name} cannot be loaded.")
    return ChatModel(name, GENERATORS[name])


@pytest.fixture
def dialogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dialogue:
    monkeypatch.chdir(tmp_path)
    sampling = Sampling(max_new_tokens=6, seed=0)
    return Dialogue(Chat(None, sampling=sampling), Models(["one", "two"], load))


@pytest.fixture
def vote(dialogue: Dialogue, capsys: Capture) -> Votes:
    """Types a line and answers its question; a vote that is a model's name becomes its letter."""

    def say(line: str, *answers: str) -> tuple[str, str]:
        given = iter(answers)
        capsys.readouterr()

        def answer(_: str) -> str:
            word = next(given)
            if word == "^C":
                raise KeyboardInterrupt
            return word

        dialogue.question = answer
        take(dialogue, line)
        captured = capsys.readouterr()
        return captured.out, captured.err

    return say


def silent(_prompt: list[int], _sampling: Sampling, **_: bool) -> ReplyStream:
    return ReplyStream(iter([Choice(EOT_ID)]))


def hello(_prompt: list[int], _sampling: Sampling, **_: bool) -> ReplyStream:
    return ReplyStream(map(Choice, [*encode_text("Hello"), EOT_ID]))


def contents(dialogue: Dialogue) -> list[str]:
    return [message.content for message in dialogue.session.turns]


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in FEEDBACK.read_text(encoding="utf-8").splitlines()]


def revealed(err: str) -> dict[str, str]:
    """The model of each letter."""
    return dict(re.findall(r"([A-Z]) is (\w+)", err))


def test_a_vote_keeps_the_reply_notes_the_pair_and_counts(dialogue: Dialogue, vote: Votes):
    out, err = vote("/compare Hello", "b")
    replies = dict(zip("AB", filter(None, out.split("\n")), strict=True))
    names = revealed(err)
    assert set(names.values()) == {"one", "two"}
    assert contents(dialogue) == ["Hello", replies["B"]]
    (row,) = rows()
    assert (row["chosen"], row["rejected"]) == (replies["B"], replies["A"])
    assert (row["chosen_model"], row["rejected_model"]) == (names["B"], names["A"])
    assert (row["prompt"], row["seed"]) == ([{"role": "user", "content": "Hello"}], 0)
    wins = ", ".join(f"{name} {int(name == names['B'])}" for name in ("one", "two"))
    assert "Noted: 1 pair in feedback.jsonl.\n" in err
    assert err.endswith(f"Wins so far: {wins}.\n")


def test_a_vote_for_a_reply_that_was_cut_is_marked_and_said_to_be_left_out(vote: Votes):
    _, err = vote("/compare Hello", "b")
    assert rows()[0]["cut"] is True
    assert "prepare leaves it out" in err


def test_names_are_hidden_until_the_vote(dialogue: Dialogue, capsys: Capture):
    seen: list[str] = []

    def answer(_: str) -> str:
        captured = capsys.readouterr()
        seen.append(captured.out + captured.err)
        return "a"

    dialogue.question = answer
    take(dialogue, "/compare Hello")
    before = seen[0].replace("Loading one …\n", "").replace("Loading two …\n", "")
    assert not re.search(r"\b(one|two)\b", before)
    assert [line for line in before.splitlines() if len(line) == 1] == ["A", "B"]


def test_the_order_is_drawn_anew(dialogue: Dialogue, vote: Votes):
    orders = {tuple(revealed(vote("/compare Hello", "=")[1]).items()) for _ in range(24)}
    assert len(orders) == 2


def test_all_models_read_the_same_and_draw_with_the_same_seed(
    dialogue: Dialogue, vote: Votes, monkeypatch: pytest.MonkeyPatch
):
    asked: list[tuple[list[int], Sampling]] = []
    for generator in GENERATORS.values():

        def listen(
            prompt: list[int],
            sampling: Sampling,
            stream: Stream = generator.stream,
            **given: bool,
        ) -> ReplyStream:
            asked.append((prompt, sampling))
            return stream(prompt, sampling, **given)

        monkeypatch.setattr(generator, "stream", listen)
    dialogue.chat.sampling = Sampling(max_new_tokens=6)
    vote("/compare Hello", "=")
    assert len(asked) == 2
    assert asked[0] == asked[1]
    assert asked[0][1].seed is not None


def test_compare_without_a_text_replaces_the_latest_reply(dialogue: Dialogue, vote: Votes):
    vote("Hello")
    old = contents(dialogue)[1]
    out, _ = vote("/compare", "a")
    assert contents(dialogue) == ["Hello", out.split("\n")[0]]
    assert old not in out.split("\n")


def test_a_tie_keeps_the_reply_of_the_model_that_answers(dialogue: Dialogue, vote: Votes):
    out, err = vote("/compare Hello", "=")
    letter = next(letter for letter, name in revealed(err).items() if name == "one")
    assert contents(dialogue) == ["Hello", out.strip().split("\n")["AB".index(letter)]]
    assert "Wins so far: one 0, two 0, ties 1." in err
    assert not FEEDBACK.exists()


@pytest.mark.parametrize(("answers", "said"), [(("-",), "neither 1"), (("x", "^C"), "No vote:")])
def test_without_a_winner_the_chat_is_unchanged(
    dialogue: Dialogue, vote: Votes, answers: tuple[str, ...], said: str
):
    vote("Hello")
    before = contents(dialogue)
    for line, draft in (("/compare", ""), ("/compare And?", "/compare And?")):
        assert said.replace("1", "") in vote(line, *answers)[1]
        assert (contents(dialogue), dialogue.draft) == (before, draft)
    assert not FEEDBACK.exists()


def test_an_invalid_vote_is_asked_for_again(vote: Votes):
    _, err = vote("/compare Hello", "", "c", "one", " A ")
    assert err.count("Type A or B, = or -.") == 3
    assert "Noted: 1 pair" in err


def test_a_reply_that_is_empty_cannot_win(
    dialogue: Dialogue, vote: Votes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(GENERATORS["two"], "stream", silent)
    _, err = vote("/compare Hello", "a", "b")
    assert "The model gave no reply." in err
    letter = next(letter for letter, name in revealed(err).items() if name == "one")
    assert f"Type {letter}, = or -." in err or letter == "A"
    assert dialogue.wins == {"one": 1}
    assert not FEEDBACK.exists()


def test_equal_replies_are_not_voted_on(
    dialogue: Dialogue, vote: Votes, monkeypatch: pytest.MonkeyPatch
):
    for generator in GENERATORS.values():
        monkeypatch.setattr(generator, "stream", hello)
    assert "The replies are the same" in vote("/compare Hello")[1]
    assert contents(dialogue) == ["Hello", "Hello"]


def test_if_no_model_replies_the_message_returns_to_the_prompt(
    dialogue: Dialogue, vote: Votes, monkeypatch: pytest.MonkeyPatch
):
    for generator in GENERATORS.values():
        monkeypatch.setattr(generator, "stream", silent)
    assert "No model replied." in vote("/compare Hello")[1]
    assert (contents(dialogue), dialogue.draft, dialogue.wins) == ([], "/compare Hello", {})


def test_if_a_models_scores_are_not_finite_the_message_returns_to_the_prompt(
    dialogue: Dialogue, vote: Votes, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object, **__: object) -> ReplyStream:
        raise ReplyError("The model's scores are not finite.")

    monkeypatch.setattr(GENERATORS["two"], "stream", broken)
    assert "error: The model's scores are not finite." in vote("/compare Hello")[1]
    assert (contents(dialogue), dialogue.draft) == ([], "/compare Hello")


def test_a_prompt_fits_the_smallest_window(dialogue: Dialogue, vote: Votes):
    _, err = vote("/compare " + "word " * 870)
    assert "error: The message has 870 tokens; 866 fit." in err
    assert contents(dialogue) == []
    vote("/compare " + "word " * 866, "=")
    assert dialogue.session.window == GENERATORS["one"].window


def test_another_model_is_loaded_and_asked(dialogue: Dialogue, vote: Votes, tmp_path: Path):
    dialogue.models = Models(["one"], load)
    assert "Only one is loaded. Type /compare starter to load another." in vote("/compare")[1]
    assert "Only one is loaded." in vote("/compare What is rain?")[1]
    _, err = vote("/compare two")
    assert err == "two is being loaded. Type /compare and a message.\n"
    assert "error: There is no message to compare. Type /compare and the" in vote("/compare")[1]
    assert dialogue.models.names == ["one", "two"]
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "config.json").touch()
    vote("Hello")
    _, err = vote("/compare three", "c")
    assert set(revealed(err)) == set("ABC")
    assert len(rows()) == 2


def test_a_path_that_does_not_exist_is_not_a_message(vote: Votes):
    assert "There is no folder runs/opro" in vote("/compare runs/opro")[1]


def test_a_folder_is_one_model_by_whatever_path(
    dialogue: Dialogue, vote: Votes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "config.json").touch()
    for path in ("one/", "./one", "../" + tmp_path.name + "/one"):
        assert f"error: {path} is loaded already." in vote(f"/compare {path}")[1]
        dialogue.models.add(path)
    assert dialogue.models.names == ["one", "two"]


def test_a_vote_that_cannot_be_written_leaves_the_reply_and_the_tally(
    dialogue: Dialogue, vote: Votes, tmp_path: Path
):
    (tmp_path / FEEDBACK).mkdir()
    _, err = vote("/compare Hello", "a")
    winner = revealed(err)["A"]
    assert "error: Cannot write feedback.jsonl" in err
    assert f"The reply of {winner} stays in the chat all the same.\nWins so far:" in err
    assert len(contents(dialogue)) == 2


def test_a_model_that_cannot_be_loaded_is_forgotten(dialogue: Dialogue, vote: Votes):
    dialogue.models = Models(["one"], load)
    vote("Hello")
    before = contents(dialogue)
    assert "error: --model none cannot be loaded." in vote("/compare none")[1]
    assert "There is no folder ./none" in vote("/compare ./none")[1]
    assert (dialogue.models.names, contents(dialogue)) == (["one"], before)


def test_a_model_that_cannot_be_loaded_is_reported_at_the_next_line(
    dialogue: Dialogue, vote: Votes
):
    dialogue.models = Models(["one", "none", "two"], load)
    dialogue.models.loading("two").result()  # they are loaded one after the other
    assert vote("Hello")[1].startswith("error: --model none cannot be loaded.\n")
    assert dialogue.models.names == ["one", "two"]
    assert "error" not in vote("Hello")[1]


def test_only_what_was_named_is_loaded(dialogue: Dialogue, vote: Votes):
    loaded: list[str] = []

    def watched(name: str) -> ChatModel:
        loaded.append(name)
        return load(name)

    dialogue.models = Models(["two", "one", "two"], watched)
    vote("/compare Hello", "=")
    vote("/compare", "=")
    assert loaded == ["two", "one"]

"""What Tab makes of a line."""

from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from gpt2chat.core.chat.chat import Chat
from gpt2chat.core.chat.model import ChatModel
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.dialogue.commands import COMMANDS
from gpt2chat.dialogue.dialogue import Dialogue
from gpt2chat.dialogue.models import Models
from gpt2chat.repl.completion import Completions


def load(name: str) -> ChatModel:
    raise AssertionError(name)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a run, a chat and a page."""
    monkeypatch.chdir(tmp_path)
    for run in ("orpo", "sft"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "config.json").touch()
    (tmp_path / "my chat.json").touch()
    (tmp_path / "page.txt").touch()


def completed(line: str) -> list[str]:
    """The lines that Tab offers."""
    models = Models((), load)
    models.add("runs/orpo")
    dialogue = Dialogue(Chat(None, sampling=Sampling(top_k=5)), models)
    found = Completions(dialogue).get_completions(Document(line), CompleteEvent())
    return [line[: len(line) + entry.start_position] + entry.text for entry in found]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/und", ["/undo"]),
        ("/HE", ["/help"]),
        ("/s", ["/system", "/set", "/show", "/save"]),
        ("/save ", ["/save my chat.json", "/save page.txt", "/save runs"]),
        ("/load my", ["/load my chat.json"]),
        ("/LOAD runs/", ["/LOAD runs/orpo", "/LOAD runs/sft"]),
        ("/document ", ["/document @", "/document off"]),
        ("/document @pa", ["/document @page.txt"]),
        ("/document pa", []),
        ("/set te", ["/set temperature "]),
        ("/set top_", ["/set top_k ", "/set top_p "]),
        ("/set top_k ", ["/set top_k 5", "/set top_k default"]),
        ("/set heat ", ["/set heat default"]),
        ("/system d", ["/system default"]),
        ("/compare ", ["/compare runs/sft", "/compare starter"]),
        ("/clear ", []),
        ("/nope ", []),
        ("/edit x\n/und", []),
        ("what is /und", []),
        (" /und", []),
        ("", []),
    ],
)
def test_tab_offers_what_may_follow(line: str, expected: list[str]):
    assert completed(line) == expected


def test_tab_offers_every_command():
    assert {command.names[0] for command in COMMANDS} <= set(completed("/"))

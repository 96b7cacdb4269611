"""A chat of 500 turns: what has left the window is kept as its text, and nothing else grows."""

import gc
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from gpt2chat.core.chat.chat import Chat
from gpt2chat.core.chat.chats import Autosave, read_chat
from gpt2chat.core.chat.model import ChatModel
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.generation.generate import Generator
from gpt2chat.dialogue.commands import take
from gpt2chat.dialogue.dialogue import Dialogue
from gpt2chat.dialogue.models import Models
from tests.helpers import ignore, tiny_model

pytestmark = pytest.mark.slow

WARM, TURNS = 100, 500
MESSAGE = "What came of it, and who was there? " * 5
GROWTH = 5 << 20
"""Bytes that the process may grow by after its first 100 turns, for what malloc does. One prompt of
a full window is 18 KiB as a list of ids, and 256 KiB as keys and values: kept of each turn, that
would be 7 or 100 MiB."""
OVERHEAD = 64
"""Bytes that a message may take beside its text."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither wait for the disk, a thousand times, nor for a second thread on a busy machine."""
    monkeypatch.setattr(os, "fsync", ignore)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def resident() -> int:
    """Return how much memory the process takes."""
    gc.collect()
    return psutil.Process().memory_info().rss


@pytest.mark.usefixtures("quick")
def test_500_turns_take_no_more_memory_than_their_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = ChatModel("tiny", Generator(tiny_model(positions=512), torch.device("cpu")))
    chat = Chat(None, sampling=Sampling(max_new_tokens=2, seed=0))
    models = Models(("tiny",), lambda _: model)
    dialogue = Dialogue(chat, models, autosave=Autosave(tmp_path / "chats"))
    session = chat.session
    warm = 0
    for turn in range(TURNS):
        take(dialogue, f"{turn}: {MESSAGE}")
        assert session.used <= session.window
        if turn == WARM:
            assert "left the window" in capsys.readouterr().err
            warm = resident()
    assert resident() - warm < GROWTH
    assert len(session.turns) == 2 * TURNS
    text = sum(len(message.content.encode()) for message in session.turns)
    assert len(pickle.dumps(session)) < text + OVERHEAD * 2 * TURNS
    (kept,) = (tmp_path / "chats").iterdir()
    assert read_chat(kept).conversation.messages == session.messages

"""Small models, conversations and rows of the bundled sample that several test files use."""

import gzip
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2chat.core.files import STARTER
from gpt2chat.core.model.load import set_ids
from gpt2chat.core.model.packed import PackedGPT2
from gpt2chat.core.text.conversations import Conversation, Message
from gpt2chat.core.text.tokens import VOCAB, WINDOW

SAMPLE = STARTER / "sample"


def tiny_model(
    *, packed: bool = False, positions: int = WINDOW, seed: int = 0, dropout: float = 0.0
) -> GPT2LMHeadModel:
    """Return a GPT-2 of 2 layers and width 32 with drawn weights, in evaluation mode."""
    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=positions,
        n_embd=32,
        n_layer=2,
        n_head=2,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=0.0,
    )
    torch.manual_seed(seed)
    kind = PackedGPT2 if packed else GPT2LMHeadModel
    attention = PackedGPT2.attention if packed else "sdpa"
    model = kind._from_config(config, attn_implementation=attention)  # pyright: ignore[reportPrivateUsage]
    return set_ids(model.eval())


def ignore(*_: object) -> None:
    """Listen to nothing."""


def sample_rows(name: str, count: int) -> list[dict[str, Any]]:
    """Return the first rows of a bundled sample file."""
    with gzip.open(SAMPLE / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in itertools.islice(lines, count)]


def before_each_pass(
    monkeypatch: pytest.MonkeyPatch, generator: Any, do: Callable[[], object]
) -> None:
    """Do something before each forward pass of a generator."""
    decoder: Any = generator.scheduler.decoder
    extend = decoder.extend

    def extended(*given: Any) -> Any:
        do()
        return extend(*given)

    monkeypatch.setattr(decoder, "extend", extended)


def talk(*contents: str) -> Conversation:
    """Return a conversation of alternating user and assistant messages, the user first."""
    roles = ("user", "assistant")
    return Conversation(tuple(Message(roles[i % 2], content) for i, content in enumerate(contents)))

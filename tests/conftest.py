"""Small real models and conversations that several test files use."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2chat.core.checkpoint import save_model
from gpt2chat.core.conversations import Conversation, Message
from gpt2chat.core.model import set_ids
from gpt2chat.core.packing import PACKED, PackedGPT2
from gpt2chat.core.tokens import VOCAB, WINDOW

MakeModel = Callable[..., GPT2LMHeadModel]


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
    model = kind._from_config(config, attn_implementation=PACKED if packed else "sdpa")  # pyright: ignore[reportPrivateUsage]
    return set_ids(model.eval())


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with the weights of `tiny_model`."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(tiny_model(), folder)
    return folder


def talk(*contents: str) -> Conversation:
    """Return a conversation of alternating user and assistant messages, the user first."""
    roles = ("user", "assistant")
    return Conversation(tuple(Message(roles[i % 2], content) for i, content in enumerate(contents)))

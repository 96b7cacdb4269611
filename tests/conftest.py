"""Small real models and conversations that several test files use."""

import gzip
import itertools
import json
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.data.prepare import prepare
from gpt2chat.core.files import STARTER
from gpt2chat.core.model.checkpoint import save_model
from gpt2chat.core.model.load import set_ids
from gpt2chat.core.model.packed import PackedGPT2
from gpt2chat.core.text.conversations import Conversation, Message
from gpt2chat.core.text.tokens import VOCAB, WINDOW
from tests.hub_server import Hub

# The same examples in every run, on a machine as slow as it likes.
settings.register_profile(
    "gpt2chat", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("gpt2chat")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Under nohup, or in the background of a script, Ctrl-C is ignored; these tests press it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # So is the end of a terminal, which other tests bring about.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what this machine has not."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no GPU"))


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


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with the weights of `tiny_model`."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(tiny_model(), folder)
    return folder


SAMPLE = STARTER / "sample"


@pytest.fixture
def hub() -> Generator[Hub]:
    """A Hugging Face Hub on the loopback interface, with nothing in it."""
    server = Hub()
    yield server
    server.close()


def ignore(_: object) -> None:
    """Listen to nothing."""


def sample_rows(name: str, count: int) -> list[dict[str, Any]]:
    """Return the first rows of a bundled sample file."""
    with gzip.open(SAMPLE / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in itertools.islice(lines, count)]


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder made by `prepare` from 40 instructions and 24 short preference pairs."""
    folder = tmp_path_factory.mktemp("data")
    pairs = (
        row
        for row in sample_rows("ultrafeedback.jsonl.gz", 400)
        if len(str(row["chosen"])) + len(str(row["rejected"])) < 1500
    )
    files = {
        "chat.jsonl": sample_rows("instructions.train.jsonl.gz", 40),
        "pairs.jsonl": list(itertools.islice(pairs, 24)),
    }
    for name, rows in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = PrepareConfig(
        oasst1="off",
        alpaca="off",
        ultrafeedback="off",
        chat=(str(folder / "chat.jsonl"),),
        preference=(str(folder / "pairs.jsonl"),),
        holdout=0.25,
        out=folder / "data",
    )
    prepare(settings, ignore)
    return folder / "data"


@pytest.fixture(scope="session")
def sample_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder made by `prepare --sample`."""
    folder = tmp_path_factory.mktemp("sample") / "data"
    prepare(PrepareConfig(sample=True, out=folder), ignore)
    return folder


def before_each_pass(
    monkeypatch: pytest.MonkeyPatch, generator: Any, do: Callable[[], object]
) -> None:
    """Do something before each forward pass of a generator."""
    decoder: Any = generator._decoder
    extend = decoder.extend

    def extended(*given: Any) -> Any:
        do()
        return extend(*given)

    monkeypatch.setattr(decoder, "extend", extended)


def talk(*contents: str) -> Conversation:
    """Return a conversation of alternating user and assistant messages, the user first."""
    roles = ("user", "assistant")
    return Conversation(tuple(Message(roles[i % 2], content) for i, content in enumerate(contents)))

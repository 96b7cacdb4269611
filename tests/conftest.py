"""Fixtures that several test files use, and how pytest is set up here."""

import itertools
import json
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from gpt2chat.core.config.prepare import PrepareConfig
from gpt2chat.core.data.prepare import prepare
from gpt2chat.core.model.checkpoint import save_model
from tests.helpers import (
    SAMPLE,
    before_each_pass,
    ignore,
    sample_rows,
    talk,
    tiny_model,
)
from tests.hub_server import Hub

# Test files that import these from here keep working; new ones import from tests.helpers.
__all__ = ["SAMPLE", "before_each_pass", "ignore", "sample_rows", "talk", "tiny_model"]

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
    """Skip the tests that need a GPU where there is none.

    Where there is one, a warning fails none of them: PyTorch's compiler and Triton warn about what
    they find on the machine, and a run on a rented GPU must not end with that.
    """
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.filterwarnings("default"))
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="there is no GPU"))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with the weights of `tiny_model`."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(tiny_model(), folder)
    return folder


@pytest.fixture
def hub() -> Generator[Hub]:
    """A Hugging Face Hub on the loopback interface, with nothing in it."""
    server = Hub()
    yield server
    server.close()


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

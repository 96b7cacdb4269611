"""Damaged model folders: whatever is wrong with a file, loading works or says so in one line."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from gpt2chat.core.config.training import SftConfig
from gpt2chat.core.errors import Gpt2ChatError
from gpt2chat.core.generation.loading import load_generator
from gpt2chat.core.model.load import load_model
from gpt2chat.core.model.lora import add_lora, save_adapted
from tests.helpers import tiny_model

WAYS = 24
VALUES = (None, True, -1, 0, 3, 10**9, 10**30, 0.5, 1e999, "", "x", "(a|a)*b", [], ["x"], [[]], {})


def damaged_bytes(content: bytes, draw: random.Random) -> bytes:
    """Cut, drop, repeat or change a piece of a file."""
    # Half of the places are near the beginning, where a safetensors file has its header.
    end = len(content) if draw.random() < 0.5 else min(len(content), 4000)
    start = draw.randrange(end)
    stop = min(start + draw.choice((1, 1, 8, 200)), len(content))
    noise = draw.choice((draw.randbytes(stop - start), b"9" * (stop - start), b"[" * 5000))
    middle = draw.choice((b"", noise, content[start:stop] * 2))
    tail = draw.choice((b"", content[stop:], content[stop:]))
    return content[:start] + middle + tail


def damaged_json(content: bytes, draw: random.Random) -> bytes:
    """Remove or replace a value somewhere in a JSON object."""
    place: Any = json.loads(content)
    whole = place
    while True:
        key = draw.choice(sorted(place, key=str)[:30])
        if isinstance(place[key], dict) and place[key] and draw.random() < 0.7:
            place = place[key]
        elif draw.random() < 0.2:
            del place[key]
            return json.dumps(whole).encode()
        else:
            place[key] = draw.choice(VALUES)
            return json.dumps(whole).encode()


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model and an adapter of it, side by side."""
    top = tmp_path_factory.mktemp("damaged")
    shutil.copytree(tiny_folder, top / "chat")
    settings = SftConfig(model=str(top / "chat"), lora_r=4)
    save_adapted(add_lora(tiny_model(packed=True), settings), top / "adapter", merge=False)
    return top


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "file",
    [
        "chat/config.json", "chat/model.safetensors", "chat/tokenizer.json",
        "chat/tokenizer_config.json", "chat/generation_config.json",
        "adapter/adapter_config.json", "adapter/adapter_model.safetensors",
    ],
)  # fmt: skip
def test_a_folder_with_a_damaged_file_loads_or_is_one_line(folders: Path, file: str):
    path, draw = folders / file, random.Random(file)
    whole = path.read_bytes()
    errors: list[Gpt2ChatError] = []
    for way in range(WAYS):
        as_json = path.suffix == ".json" and way % 2
        path.write_bytes((damaged_json if as_json else damaged_bytes)(whole, draw))
        # Chat reads a whole model without transformers, training and evaluation with them.
        load = (load_model, load_generator)[way // 2 % 2] if file.startswith("chat") else load_model
        try:
            load(str(path.parent))
        except Gpt2ChatError as error:
            errors.append(error)
    path.write_bytes(whole)
    assert {error.exit_code for error in errors} <= {4}
    assert not [error for error in errors if "\n" in str(error)]

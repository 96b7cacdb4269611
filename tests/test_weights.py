"""Weights read without transformers: the same as with it, and nothing that it would refuse."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt2chat.core.errors import CheckpointError
from gpt2chat.core.model.checkpoint import save_model
from gpt2chat.core.model.load import load_model
from gpt2chat.core.model.weights import check_finite, read_weights, weights_of
from tests.helpers import tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tiny_model(), tmp_path / "model")
    return tmp_path / "model"


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def drop_setting(folder: Path, name: str) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if key != name}))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_those_that_transformers_loads(folder: Path, dtype: torch.dtype):
    def shorten(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: part.to(dtype) for name, part in tensors.items()})

    change_tensors(folder, shorten)
    change_config(folder, scale_attn_by_inverse_layer_idx=True, layer_norm_epsilon=1e-4)
    read, model = read_weights(str(folder)), load_model(str(folder))
    assert read is not None
    loaded = weights_of(model)
    assert read.num_parameters() == model.num_parameters()
    assert (read.heads, read.eps, read.scaled, read.scaled_by_layer, read.layers) == (
        loaded.heads, loaded.eps, loaded.scaled, loaded.scaled_by_layer, loaded.layers,
    )  # fmt: skip
    assert read.tensors.keys() == loaded.tensors.keys()
    for name, part in read.tensors.items():
        assert part.dtype == torch.float32
        assert torch.equal(part, loaded.tensors[name]), name


def test_names_without_the_heads_prefix_are_known_too(folder: Path):
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)

    change_tensors(folder, rename)
    assert read_weights(str(folder)) is not None


@pytest.mark.parametrize(
    "values",
    [
        {"vocab_size": 50257}, {"model_type": "llama"}, {"activation_function": "relu"},
        {"n_layer": 3}, {"n_layer": 1}, {"n_positions": 512}, {"n_inner": 64}, {"n_head": 5},
        {"n_head": 0}, {"tie_word_embeddings": False}, {"add_cross_attention": True},
        {"n_embd": None}, {"n_layer": "two"}, {"layer_norm_epsilon": None},
    ],
)  # fmt: skip
def test_another_model_is_left_to_transformers(folder: Path, values: dict[str, Any]):
    change_config(folder, **values)
    assert read_weights(str(folder)) is None


@pytest.mark.parametrize("name", ["layer_norm_epsilon", "n_positions", "activation_function"])
def test_a_setting_that_is_not_there_is_transformers_default(folder: Path, name: str):
    drop_setting(folder, name)
    assert read_weights(str(folder)) is None
    assert weights_of(load_model(str(folder))).eps == 1e-5


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b"\xff" * 99])
def test_a_damaged_folder_is_left_to_what_says_so(folder: Path, name: str, content: bytes | None):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    assert read_weights(str(folder)) is None


def test_a_tensor_too_many_or_too_few_is_left_to_transformers(folder: Path):
    change_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": torch.ones(2, 2)}))
    assert read_weights(str(folder)) is None
    change_tensors(folder, lambda tensors: tensors.pop("lm_head.weight"))
    assert read_weights(str(folder)) is not None
    change_tensors(folder, lambda tensors: tensors.pop("transformer.h.0.ln_1.bias"))
    assert read_weights(str(folder)) is None


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(folder: Path, value: float):
    check_finite(tiny_model(), "tiny")
    change_tensors(folder, lambda tensors: tensors["transformer.wpe.weight"][3].fill_(value))
    read = read_weights(str(folder))
    assert read is not None
    with pytest.raises(CheckpointError, match=r"tiny is damaged: its tensor wpe\.weight holds"):
        check_finite(read, "tiny")


def test_names_of_the_hub_and_base_models_are_left_to_transformers():
    assert read_weights("gpt2") is None
    assert read_weights("starter") is None
    with pytest.raises(CheckpointError, match="there is no such folder"):
        read_weights("./nowhere")


def test_a_reply_needs_no_transformers(folder: Path, tmp_path: Path):
    code = (
        "import sys\n"
        "sys.argv = ['gpt2chat', 'chat', '--model', sys.argv[1], '-p', 'Hello', '--no-history']\n"
        "from gpt2chat.cli import app\n"
        "try:\n"
        "    app()\n"
        "finally:\n"
        "    print('transformers' in sys.modules, 'torch' in sys.modules, file=sys.stderr)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=tmp_path, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert process.stderr.splitlines()[-1] == "False True", process.stderr

"""Weights are read the same way for every command, and damaged ones are named."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2chat.core.errors import CheckpointError
from gpt2chat.core.generation.loading import load_generator
from gpt2chat.core.model.checkpoint import save_model
from gpt2chat.core.model.folder import DEFAULTS
from gpt2chat.core.model.load import load_model
from gpt2chat.core.model.names import resolve_model
from gpt2chat.core.model.weights import check_finite, read_weights, weights_of
from gpt2chat.core.text.tokens import VOCAB
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
    read, model = read_weights(resolve_model(str(folder))), load_model(str(folder))
    loaded = weights_of(model)
    assert read.num_parameters() == model.num_parameters()
    assert (read.heads, read.eps, read.scaled, read.scaled_by_layer, read.layers) == (
        loaded.heads, loaded.eps, loaded.scaled, loaded.scaled_by_layer, loaded.layers,
    )  # fmt: skip
    assert read.tensors.keys() == loaded.tensors.keys()
    for name, part in read.tensors.items():
        assert part.dtype == torch.float32
        assert torch.equal(part, loaded.tensors[name]), name


@pytest.mark.parametrize("prefix", ["", "_orig_mod.transformer.", "module._orig_mod.transformer."])
def test_names_are_known_with_any_wrapper_around_the_model(folder: Path, prefix: str):
    expected = read_weights(resolve_model(str(folder))).tensors

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[prefix + name.removeprefix("transformer.")] = tensors.pop(name)

    change_tensors(folder, rename)
    tensors = weights_of(load_model(str(folder))).tensors
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


def both_refuse(folder: Path, word: str) -> None:
    """Chat reads weights by itself, and training and evaluation through transformers."""
    for load in (load_model, load_generator):
        with pytest.raises(CheckpointError, match=word) as caught:
            load(str(folder))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"model_type": "llama"}, "llama"), ({"n_layer": 3}, "3 layers"),
        ({"n_layer": 1}, "1 layer"), ({"n_layer": 10**6}, "1,000,000 layers"),
        ({"n_layer": 10**9}, "layers"), ({"n_positions": 10**8}, "wpe.weight"),
        ({"n_embd": 10**8}, "wte.weight"), ({"n_positions": 512}, "wpe.weight"),
        ({"n_inner": 64}, "mlp.c_fc"), ({"n_inner": -1}, "n_inner"), ({"n_head": 5}, "n_head"),
        ({"n_head": 0}, "n_head"), ({"n_embd": None}, "n_embd"), ({"n_layer": "two"}, "n_layer"),
        ({"n_layer": True}, "n_layer"), ({"layer_norm_epsilon": None}, "layer_norm_epsilon"),
        ({"add_cross_attention": True}, "cross-attention"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantized"),
        ({"activation_function": "nothing"}, "activation_function"),
    ],
)  # fmt: skip
def test_a_config_that_its_weights_contradict_is_refused_before_anything_is_read(
    folder: Path, values: dict[str, Any], word: str
):
    change_config(folder, **values)
    both_refuse(folder, word)


@pytest.mark.parametrize("name", ["layer_norm_epsilon", "n_positions", "activation_function"])
def test_a_setting_that_is_missing_has_transformers_default(folder: Path, name: str):
    drop_setting(folder, name)
    read = read_weights(resolve_model(str(folder)))
    assert (read.eps, read.activation) == (1e-5, "gelu_new")


def test_the_settings_of_gpt2_have_the_defaults_of_transformers():
    defaults = GPT2Config().to_dict()
    assert {name: defaults[name] for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"\xff" * 99, b"[" * 100_000])
def test_a_damaged_file_is_named(folder: Path, name: str, content: bytes):
    (folder / name).write_bytes(content)
    both_refuse(folder, name)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_that_cannot_be_opened_is_named_with_the_systems_reason(folder: Path, name: str):
    (folder / name).unlink()
    (folder / name).mkdir()
    both_refuse(folder, f"{name}: Is a directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_weights_without_read_permission_are_not_said_to_be_missing(folder: Path):
    (folder / "model.safetensors").chmod(0)
    both_refuse(folder, "Permission denied")


@pytest.mark.parametrize("name", ["transformer.h.0.ln_1.bias", "transformer.wte.weight"])
def test_a_missing_tensor_is_named(folder: Path, name: str):
    change_tensors(folder, lambda tensors: tensors.pop(name))
    both_refuse(folder, name.removeprefix("transformer."))


def test_a_tensor_of_whole_numbers_is_refused(folder: Path):
    def shorten(tensors: dict[str, torch.Tensor]) -> None:
        tensors["transformer.wpe.weight"] = tensors["transformer.wpe.weight"].to(torch.int8)

    change_tensors(folder, shorten)
    both_refuse(folder, "I8")


def test_masks_and_heads_of_other_tasks_are_left_out(folder: Path):
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
        tensors["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
        tensors["v_head.summary.weight"] = torch.ones(1, 32)

    change_tensors(folder, add)
    assert load_generator(str(folder)).parameters == load_model(str(folder)).num_parameters()


@pytest.mark.parametrize("tied", [True, False])
def test_an_output_head_of_its_own_is_refused(folder: Path, tied: bool):
    change_config(folder, tie_word_embeddings=tied)
    change_tensors(
        folder, lambda tensors: tensors.update({"lm_head.weight": torch.ones(VOCAB, 32)})
    )
    both_refuse(folder, "lm_head")


def test_an_output_head_that_equals_the_embeddings_is_tied_to_them(folder: Path):
    change_config(folder, tie_word_embeddings=False)
    both_refuse(folder, "tie_word_embeddings")
    change_tensors(
        folder,
        lambda tensors: tensors.update(
            {"lm_head.weight": tensors["transformer.wte.weight"].clone()}
        ),
    )
    model = load_model(str(folder))
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.config.tie_word_embeddings
    load_generator(str(folder))


def test_weights_in_several_files_are_read(folder: Path):
    expected = read_weights(resolve_model(str(folder)))
    GPT2LMHeadModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="1MB")
    (folder / "model.safetensors").unlink()
    read = read_weights(resolve_model(str(folder)))
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert all(torch.equal(read.tensors[name], part) for name, part in expected.tensors.items())


@pytest.mark.parametrize("place", ["../model.safetensors", "/etc/passwd", 3])
def test_an_index_that_leads_out_of_the_folder_is_refused(folder: Path, place: str | int):
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"transformer.wte.weight": place}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    both_refuse(folder, "index")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(folder: Path, value: float):
    check_finite(tiny_model(), "tiny")
    change_tensors(folder, lambda tensors: tensors["transformer.wpe.weight"][3].fill_(value))
    both_refuse(folder, "wpe.weight")


def test_large_weights_whose_sum_overflows_are_finite(folder: Path):
    change_tensors(folder, lambda tensors: tensors["transformer.wpe.weight"][3].fill_(3e38))
    check_finite(load_model(str(folder)), "large")


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

"""Loading models: grown embeddings, learned positions kept, bad folders refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gpt2chat.core.errors import CheckpointError
from gpt2chat.core.files import STARTER
from gpt2chat.core.model.load import load_model
from gpt2chat.core.text.tokens import EOT_ID, GPT2_VOCAB, STOP_IDS, VOCAB


@pytest.fixture(scope="module")
def starter() -> torch.nn.Module:
    return load_model("starter")


def old_rows() -> dict[str, torch.Tensor]:
    return load_file(STARTER / "model.safetensors")


def test_position_embeddings_keep_their_learned_rows(starter: torch.nn.Module):
    learned = old_rows()["transformer.wpe.weight"].float()
    assert torch.equal(starter.get_parameter("transformer.wpe.weight"), learned)


def test_token_embeddings_keep_their_learned_rows(starter: torch.nn.Module):
    learned = old_rows()["transformer.wte.weight"].float()
    assert torch.equal(starter.get_parameter("transformer.wte.weight")[:GPT2_VOCAB], learned)


def test_new_token_rows_start_from_the_mean_of_the_old_ones(starter: torch.nn.Module):
    rows = starter.get_parameter("transformer.wte.weight")
    assert rows.shape[0] == VOCAB
    mean = rows[:GPT2_VOCAB].mean(0)
    # The draw's covariance is 1e-9 of the old rows': the new rows are the mean to four digits.
    torch.testing.assert_close(rows[GPT2_VOCAB:], mean.expand(7, -1), rtol=0, atol=1e-4)


def test_the_head_stays_tied_to_the_embeddings(starter: torch.nn.Module):
    assert starter.get_parameter("lm_head.weight") is starter.get_parameter(
        "transformer.wte.weight"
    )


def test_the_same_seed_draws_the_same_rows():
    rows = [load_model("starter", seed=3).lm_head.weight[GPT2_VOCAB:] for _ in range(2)]
    assert torch.equal(rows[0], rows[1])


def test_generation_stops_at_end_of_turn_and_end_of_text(starter: torch.nn.Module):
    model = load_model("starter")
    assert model.config.eos_token_id == EOT_ID
    assert model.config.pad_token_id != model.config.eos_token_id
    assert model.generation_config.eos_token_id == list(STOP_IDS)


def test_a_loaded_model_computes_what_transformers_computes(tiny_folder: Path):
    ids = torch.arange(40)[None]
    with torch.no_grad():
        ours = load_model(str(tiny_folder)).double()(ids).logits
        theirs = AutoModelForCausalLM.from_pretrained(tiny_folder).double()(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_pytorch_tanh"])
def test_a_gpt2_keeps_the_activation_that_it_names(
    activation: str, tiny_folder: Path, tmp_path: Path
):
    shutil.copytree(tiny_folder, tmp_path / "other")
    file = tmp_path / "other" / "config.json"
    values = json.loads(file.read_text()) | {"activation_function": activation}
    file.write_text(json.dumps(values))
    test_a_loaded_model_computes_what_transformers_computes(tmp_path / "other")


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no readable config\.json"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("content", ["[1]", "3", "null", '"gpt2"', "{"])
def test_a_config_that_is_no_object_is_refused(tmp_path: Path, content: str):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"no readable config\.json"):
        load_model(str(tmp_path))


def test_another_architecture_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="of type llama"):
        load_model(str(tmp_path))


def test_another_vocabulary_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 300}))
    with pytest.raises(CheckpointError, match="vocabulary of 300"):
        load_model(str(tmp_path))


def test_a_folder_without_weights_is_refused(tiny_folder: Path, tmp_path: Path):
    shutil.copy(tiny_folder / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match="no weights"):
        load_model(str(tmp_path))


def test_damaged_weights_are_one_line(tiny_folder: Path, tmp_path: Path):
    shutil.copy(tiny_folder / "config.json", tmp_path)
    whole = (tiny_folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be loaded") as caught:
        load_model(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (3, "asks for the tensor transformer.h.2.attn.c_attn.bias, which its weights lack."),
        (
            1,
            "its tensor transformer.h.1.attn.c_attn.weight is of a layer that its config.json does",
        ),
    ],
)
def test_weights_of_more_or_fewer_layers_than_the_config_has_are_refused(
    tiny_folder: Path, tmp_path: Path, layers: int, said: str
):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_layer": layers}))
    with pytest.raises(CheckpointError, match=said):
        load_model(str(folder))


def test_masks_that_older_versions_saved_are_no_layers(tiny_folder: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
    weights["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    load_model(str(folder))


def test_weights_of_another_shape_than_the_config_has_are_named(tiny_folder: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_positions": 512}))
    with pytest.raises(CheckpointError) as caught:
        load_model(str(folder))
    assert str(caught.value) == (
        f"--model {folder} cannot be loaded: its tensor transformer.wpe.weight has the shape "
        "(1024, 32), and its config.json asks for (512, 32)."
    )

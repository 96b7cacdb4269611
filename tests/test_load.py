"""Loading models: grown embeddings, learned positions kept, bad folders refused."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from gpt2chat.core.files import STARTER
from gpt2chat.core.model.load import load_model
from gpt2chat.core.model.names import resolve_model
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


def test_loading_leaves_the_random_numbers_and_the_loggers_of_the_caller_alone():
    logger = logging.getLogger("transformers.modeling_utils")
    before = torch.get_rng_state(), logger.getEffectiveLevel(), list(logger.filters)
    load_model("starter")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (logger.getEffectiveLevel(), logger.filters) == before[1:]


def padded(folder: Path, rows: int = VOCAB) -> Path:
    """Save the starter with its vocabulary padded, as for tensor cores."""
    model = GPT2LMHeadModel.from_pretrained(STARTER, dtype=torch.float32)
    torch.manual_seed(1)
    model.resize_token_embeddings(rows)
    model.save_pretrained(folder)
    shutil.copy(STARTER / "tokenizer.json", folder)
    return folder


def test_a_base_whose_vocabulary_was_padded_is_that_base(tmp_path: Path):
    folder = padded(tmp_path)
    assert not resolve_model(str(folder)).is_chat
    rows, expected = load_model(str(folder)), load_model("starter")
    assert torch.equal(rows.transformer.wte.weight, expected.transformer.wte.weight)

"""Saved models are plain GPT-2 folders that transformers loads and renders chats with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gpt2chat.core.model.checkpoint import save_model
from gpt2chat.core.model.load import load_model
from gpt2chat.core.text.tokens import EOT_ID, STOP_IDS, encode_conversation
from tests.helpers import talk, tiny_model


def test_transformers_loads_the_folder_to_the_same_weights(tiny_folder: Path):
    loaded = AutoModelForCausalLM.from_pretrained(tiny_folder)
    assert type(loaded).__name__ == "GPT2LMHeadModel"
    expected = tiny_model().state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in loaded.state_dict().items())
    assert loaded.get_parameter("lm_head.weight") is loaded.get_parameter("transformer.wte.weight")


def test_saving_and_loading_with_us_changes_nothing(tiny_folder: Path):
    weights = load_model(str(tiny_folder)).state_dict()
    assert all(
        torch.equal(weight, weights[name]) for name, weight in tiny_model().state_dict().items()
    )


def test_the_config_says_what_other_tools_read(tiny_folder: Path):
    config = json.loads((tiny_folder / "config.json").read_text())
    assert config["architectures"] == ["GPT2LMHeadModel"]
    assert config["n_ctx"] == config["n_positions"] == 1024
    generation = json.loads((tiny_folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == list(STOP_IDS)


def test_a_model_that_was_packed_for_training_is_saved_without_a_trace_of_it(tmp_path: Path):
    save_model(tiny_model(packed=True), tmp_path)
    assert "packed" not in (tmp_path / "config.json").read_text()
    AutoModelForCausalLM.from_pretrained(tmp_path)(input_ids=torch.tensor([[1, 2, 3]]))


def test_the_saved_tokenizer_renders_the_ids_of_training(tiny_folder: Path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    conversation = talk("Hi!", "Hello.", "Name a colour.", "Blue.")
    rendered = tokenizer.apply_chat_template(
        conversation.as_dicts(), return_dict=True, return_assistant_tokens_mask=True
    )
    encoded = encode_conversation(conversation)
    assert rendered["input_ids"] == encoded.ids
    trained = [int(label != -100) for label in encoded.labels]
    assert rendered["assistant_masks"] == trained
    assert tokenizer.eos_token_id == EOT_ID != tokenizer.pad_token_id


LOAD = """
import json, sys
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, conversation = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
prompt = tokenizer.apply_chat_template(
    conversation, add_generation_prompt=True, return_dict=True, return_tensors="pt"
)
reply = model.generate(**prompt, do_sample=False, max_new_tokens=20)
print(json.dumps([prompt["input_ids"][0].tolist(), reply[0].tolist()]))
print(transformers.__version__, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def transformers_4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with transformers 4.57, whose packages come before those of this environment."""
    folder = tmp_path_factory.mktemp("transformers")
    pip = ["pip", "install", "-q", "--no-input", "--disable-pip-version-check", "--target", folder]
    packages = ["transformers==4.57.*", "tokenizers==0.22.*", "huggingface_hub<1"]
    installed = subprocess.run(
        [sys.executable, "-m", *pip, "--no-deps", "--no-compile", *packages],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if installed.returncode:
        pytest.skip(f"transformers 4.57 cannot be installed: {installed.stderr.strip()[-200:]}")
    return folder


@pytest.mark.slow
def test_transformers_4_renders_the_same_ids_and_gives_the_same_reply(
    tiny_folder: Path, transformers_4: Path
):
    conversation = json.dumps([{"role": "user", "content": "Name a colour."}])
    outputs: list[str] = []
    for environment in ({}, {"PYTHONPATH": str(transformers_4)}):
        process = subprocess.run(
            [sys.executable, "-c", LOAD, str(tiny_folder), conversation],
            env=os.environ | environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert not process.returncode, process.stderr
        outputs.append(process.stdout)
    assert process.stderr.splitlines()[-1].startswith("4.57.")
    assert outputs[0] == outputs[1]

"""Write a model folder that plain transformers loads: weights, configs, tokenizer, template."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils import logging

from gpt2chat.core.files import storage
from gpt2chat.core.text.template import BOS, CHAT_TEMPLATE, END_OF_TURN, PAD
from gpt2chat.core.text.tokens import load_tokenizer


def chat_tokenizer(window: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer for transformers, TRL and vLLM, with the template in Jinja.

    Unlike the tokenizer that gpt2chat uses, it reads the name of a special token in a text as that
    token. transformers needs that to turn rendered text into ids.
    """
    plain = Tokenizer.from_str(load_tokenizer().to_str())
    plain.encode_special_tokens = False
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        bos_token=BOS,
        eos_token=END_OF_TURN,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=window,
        # True would drop spaces before punctuation in decoded text.
        clean_up_tokenization_spaces=False,
    )


def plain(model: GPT2LMHeadModel, state: dict[str, Tensor] | None = None) -> GPT2LMHeadModel:
    """Return a `GPT2LMHeadModel` with the weights of one that was trained on packed rows.

    A model folder names the class it was saved from, and other programs know only this one.

    Args:
        state: The weights, if the model itself does not hold all of them (FSDP).
    """
    if type(model) is GPT2LMHeadModel and state is None:
        return model
    # Without memory of its own: the weights are assigned, not copied.
    with torch.device("meta"):
        copy = GPT2LMHeadModel(model.config)
    copy.load_state_dict(state or model.state_dict(), assign=True)
    # Head and embeddings were assigned one by one, as two parameters.
    copy.tie_weights()
    copy.generation_config = model.generation_config
    return copy


def save_model(
    model: GPT2LMHeadModel, folder: Path, state: dict[str, Tensor] | None = None
) -> None:
    """Write a plain `GPT2LMHeadModel` folder: safetensors, tied embeddings, no code of gpt2chat.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    with storage(folder), no_bars():
        folder.mkdir(parents=True, exist_ok=True)
        plain(model, state).save_pretrained(folder)
        save_tokenizer(folder, model.config.n_positions)


def save_tokenizer(folder: Path, window: int) -> None:
    """Write the tokenizer so that transformers 4 and 5 both load it.

    transformers 5 writes the name of a class that version 4 does not have. Both have the class
    below, and give the same ids with it. Without the input names, version 4 adds token types, which
    GPT-2 would take for tokens.
    """
    chat_tokenizer(window).save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


@contextmanager
def no_bars() -> Generator[None]:
    """Turn off transformers' progress bars, and restore its setting at the end."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()

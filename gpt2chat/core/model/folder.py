"""Check the JSON files of a model folder before any weight is read.

Nothing that takes long is imported here.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gpt2chat.core.errors import CheckpointError
from gpt2chat.core.files import reading
from gpt2chat.core.runs import SETTINGS, Run
from gpt2chat.core.text.tokens import EOT_ID, GPT2_VOCAB, SPECIAL_IDS, VOCAB, gpt2_vocabulary

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""File that lists which of several weight files has each tensor."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
"""Endings of files that hold weights as a pickle."""

DEFAULTS: Mapping[str, Any] = {
    "vocab_size": GPT2_VOCAB,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
"""transformers' values for settings of GPT-2 that a config.json leaves out."""
ADVICE = "Check the path, or train a model with `sft()`."
COUNTS = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        CheckpointError: It cannot be read, or is not a JSON object.
    """
    with reading(file):
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"a JSON object was expected, not {type(content).__name__}")
        return content


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """Return the settings in a folder's config.json, with transformers' defaults for absent ones.

    Raises:
        CheckpointError: They cannot be read, or are not those of a GPT-2 that gpt2chat can run.
    """
    file = folder / CONFIG
    if not file.exists():
        run, message = Run(folder), f"Cannot read {name}: {CONFIG} is missing. {ADVICE}"
        if (folder / SETTINGS).exists() or run.checkpoints.is_dir():
            checkpoint, conditions = run.newest_checkpoint(), run.conditions()
            # Old versions did not save the conditions, and with them the command.
            again = 'the same command and `resume="on"`'
            if conditions is not None:
                again = conditions.resume_call(folder)
            message = (
                f"{name} is an unfinished run, so it has no model yet. Resume it with {again}, or "
                f"choose its latest checkpoint, {checkpoint}."
                if checkpoint is not None
                else f"{name} is a run that saved no checkpoint, so it has no model. Start it "
                "again."
            )
        raise CheckpointError(message, setting="model")
    config = {**DEFAULTS, **read_object(file)}
    kind = config.get("model_type")
    # Early versions of transformers wrote the class only.
    if kind is None and config.get("architectures") == ["GPT2LMHeadModel"]:
        kind = "gpt2"
    if kind is None:
        raise CheckpointError(
            f"{file} does not say which architecture the model has. If it is a GPT-2, "
            'add "model_type": "gpt2" to it.',
            setting="model",
        )
    if kind != "gpt2":
        raise CheckpointError(
            f"{name} is a {kind} model. Choose a GPT-2: gpt2chat runs no other architecture.",
            setting="model",
        )
    for key in COUNTS:
        # In JSON true is not a number, but in Python it is 1.
        if type(config[key]) is not int or not 1 <= config[key] <= 10**9:
            value = json.dumps(config[key])[:50]
            raise CheckpointError(
                f"{file}: {key} must be a whole number from 1 to 10^9, not {value}.",
                setting="model",
            )
    # transformers checks none of these, and fails later with an error of PyTorch's.
    sound = {
        "n_inner": config["n_inner"] is None
        or (type(config["n_inner"]) is int and 1 <= config["n_inner"] <= 10**9),
        "layer_norm_epsilon": type(config["layer_norm_epsilon"]) in (int, float),
        "activation_function": isinstance(config["activation_function"], str),
        "n_head": config["n_embd"] % config["n_head"] == 0,
    }
    for key, holds in sound.items():
        if not holds:
            raise CheckpointError(
                f"{file}: {key} cannot be {json.dumps(config[key])[:50]}.", setting="model"
            )
    for key, what in {
        "add_cross_attention": "cross-attention",
        "quantization_config": "quantized weights",
    }.items():
        if config.get(key):
            raise CheckpointError(
                f"{name} has {what}, which gpt2chat does not run. Choose a GPT-2 without.",
                setting="model",
            )
    return config


def check_vocabulary(folder: Path, config: Mapping[str, Any], name: str) -> bool:
    """Return whether a model's vocabulary has the chat template's tokens in addition to GPT-2's.

    The number of embeddings alone does not show it: GPT-2 padded to a multiple of 8 has as many.

    Raises:
        CheckpointError: The vocabulary is not GPT-2's, so the model would read and write garbage.
    """
    source, vocabulary, added = read_vocabulary(folder)
    if vocabulary is not None and not gpt2_vocabulary().items() <= vocabulary.items():
        own = gpt2_vocabulary()
        token = next(token for token in own if vocabulary.get(token) != own[token])
        raise CheckpointError(
            f"{name} has another vocabulary than GPT-2: in {source}, token {own[token]} is not "
            f"{token!r}. Choose a model with GPT-2's own tokenizer.",
            setting="model",
        )
    # A tokenizer may list tokens beyond the embeddings; the model has never read them.
    rows = config["vocab_size"]
    extra = {token: index for token, index in added.items() if GPT2_VOCAB <= index < rows}
    if rows == VOCAB and extra == SPECIAL_IDS:
        return True
    # Without a tokenizer, the end of turn tells a chat model from a padded GPT-2.
    if rows == VOCAB and vocabulary is None and config.get("eos_token_id") == EOT_ID:
        return True
    if rows == GPT2_VOCAB or (rows == VOCAB and not extra):
        return False
    if rows < GPT2_VOCAB:
        what = f"a vocabulary of {rows:,} tokens, and GPT-2's has {GPT2_VOCAB:,}"
        raise CheckpointError(
            f"{name} has {what}. Choose a model with GPT-2's own tokenizer.", setting="model"
        )
    names = ", ".join(sorted(extra, key=extra.__getitem__)[:3])
    tokens = f"tokens of its own ({names})" if extra else "padding, or tokens of its own"
    raise CheckpointError(
        f"{name} has {rows:,} token embeddings: GPT-2's {GPT2_VOCAB:,} and {rows - GPT2_VOCAB} "
        f"more for {tokens}, which the chat template does not use. Drop them in transformers with "
        f"model.resize_token_embeddings({GPT2_VOCAB}), and save the model and GPT-2's tokenizer "
        "in another folder.",
        setting="model",
    )


def read_vocabulary(folder: Path) -> tuple[str, dict[str, int] | None, dict[str, int]]:
    """Return the name of the tokenizer's file, its tokens, and the tokens added to them.

    The tokens are None if the folder has no tokenizer, which is then assumed to be GPT-2's.
    """
    file = folder / "tokenizer.json"
    if file.exists():
        content = read_object(file)
        with reading(file):
            vocabulary = content["model"]["vocab"]
            added = {str(one["content"]): int(one["id"]) for one in content["added_tokens"]}
            # A Unigram model has a list of pairs.
            return file.name, vocabulary if isinstance(vocabulary, dict) else {}, added
    # The files of the slow tokenizer, which GPT-2's own folder on the Hub has as well.
    file, added = folder / "vocab.json", dict[str, int]()
    if (folder / "added_tokens.json").exists():
        added = read_object(folder / "added_tokens.json")
    elif (folder / "tokenizer_config.json").exists():
        settings = folder / "tokenizer_config.json"
        with reading(settings):
            decoder = read_object(settings).get("added_tokens_decoder", {})
            added = {str(one["content"]): int(index) for index, one in decoder.items()}
    if file.exists():
        return file.name, read_object(file), added
    other = next((name for name in ("vocab.txt", "spiece.model", "tokenizer.model")
                  if (folder / name).exists()), None)  # fmt: skip
    return (other, {}, added) if other else ("", None, added)


def require_weights(folder: Path, name: str, file: str) -> None:
    """Refuse a folder without safetensors, with the format that its weights have instead.

    Raises:
        CheckpointError: The weights are missing, or in a format that can run code as it is read.
    """
    if not (folder / file).exists() and not (file == WEIGHTS and (folder / INDEX).exists()):
        names = [path.name for path in folder.iterdir()]
        raise CheckpointError(why_no_weights(str(folder), name, file, names), setting="model")


def why_no_weights(place: str, name: str, file: str, names: Iterable[str]) -> str:
    """Return the message for a model that has no safetensors file.

    Args:
        place: The path or name by which transformers loads it.
        names: The names of its files.
    """
    pickle = next((other for other in sorted(names) if other.endswith(PICKLES)), None)
    if pickle is None:
        return f"{name} has no weights: {file} is missing. {ADVICE}"
    return (
        f"{name} has its weights only in {pickle}, a format that can run code when it is opened, "
        "so gpt2chat does not open it. If you trust its source, convert it in Python: "
        f"transformers.GPT2LMHeadModel.from_pretrained({place!r}).save_pretrained('NEW'); "
        "then choose NEW."
    )

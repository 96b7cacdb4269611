"""LoRA and DoRA by peft: small matrices beside GPT-2's own, and the template's token rows.

peft takes seconds to import, so it is imported where it is used.
"""

import functools
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2chat.core.config.training import TrainConfig
from gpt2chat.core.errors import CheckpointError
from gpt2chat.core.files import storage
from gpt2chat.core.model.checkpoint import chat_tokenizer, save_model
from gpt2chat.core.text.tokens import SPECIAL_IDS

ADAPTER = "adapter_config.json"
MATRICES = ["c_attn", "c_proj", "c_fc"]
"""All matrices of GPT-2's blocks."""


def add_lora(model: Any, settings: TrainConfig, *, grown: bool = False) -> Any:
    """Return the model with LoRA on the matrices of its blocks; all else is frozen but the rows of
    the template's tokens, which a base model has never seen.

    Args:
        model: A PackedGPT2.
        grown: Train its positions too: some are new.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha or 2 * settings.lora_r,
        target_modules=MATRICES,
        # GPT-2's matrices are Conv1D: input first.
        fan_in_fan_out=True,
        use_dora=settings.dora,
        trainable_token_indices={"wte": sorted(SPECIAL_IDS.values())},
        modules_to_save=["wpe"] if grown else None,
    )
    torch.manual_seed(settings.seed)
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5.23 for a name that has become another.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        adapted: Any = get_peft_model(model, config)
    config.base_model_name_or_path = base_name(settings.model)
    # peft would look the base up on the Hub to see whether its embeddings have grown.
    adapted.save_pretrained = functools.partial(
        adapted.save_pretrained, save_embedding_layers=False
    )
    return adapted


def base_name(model: str) -> str:
    """Return what names a base model from anywhere: a folder by its whole path."""
    folder = Path(model)
    return str(folder.resolve()) if folder.is_dir() else model


def adapter_rows(model: Any) -> Tensor:
    """Return the trained rows of the template's tokens. Shape (tokens, width)."""
    embedding: Any = model.get_input_embeddings()
    rows: Tensor = embedding.token_adapter.trainable_tokens_delta["default"]
    return rows.detach()


def save_adapted(model: Any, folder: Path, *, merge: bool) -> None:
    """Write a plain model with LoRA merged into it, or the adapter alone.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    if merge:
        save_model(model.merge_and_unload(), folder)
        return
    positions = model.config.n_positions
    with storage(folder):
        model.peft_config["default"].task_type = "CAUSAL_LM"
        model.save_pretrained(folder)
        chat_tokenizer(positions).save_pretrained(folder)


def base_of(folder: Path, name: str) -> str | None:
    """Return the base of the adapter in a folder; None where it holds none.

    Raises:
        CheckpointError: The adapter cannot be read.
    """
    if not (folder / ADAPTER).exists() or (folder / "config.json").exists():
        return None
    try:
        config: dict[str, Any] = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        return str(config["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"--model {name}: its {ADAPTER} cannot be read.") from error


def apply_adapter(base: Any, folder: Path, name: str) -> Any:
    """Return a base model with the adapter in a folder merged into it.

    Raises:
        CheckpointError: The adapter is damaged, or of another base.
    """
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            merged: Any = PeftModel.from_pretrained(base, str(folder)).merge_and_unload()
    except Exception as error:  # safetensors, json and torch each have errors of their own
        cause = " ".join(str(error).split())[:200]
        raise CheckpointError(f"--model {name}: its adapter cannot be loaded: {cause}") from error
    # peft leaves what it has merged frozen.
    return merged.requires_grad_(True)

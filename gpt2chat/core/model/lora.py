"""Add, save and merge LoRA and DoRA adapters with peft.

peft takes seconds to import, so it is imported inside the functions that use it.
"""

import functools
import json
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from gpt2chat.core.config.training import TrainConfig
from gpt2chat.core.errors import CheckpointError
from gpt2chat.core.files import reading, storage
from gpt2chat.core.model.checkpoint import save_model, save_tokenizer
from gpt2chat.core.model.folder import ADAPTER, ADAPTER_WEIGHTS, read_object
from gpt2chat.core.model.names import ModelFolder, local_folder
from gpt2chat.core.text.tokens import SPECIAL_IDS

USED_SETTINGS = (
    *("r", "lora_alpha", "target_modules", "fan_in_fan_out", "use_dora", "use_rslora"),
    *("bias", "modules_to_save", "trainable_token_indices"),
)
"""Supported settings of an adapter that its merged weights depend on."""
IGNORED_SETTINGS = (
    *("peft_type", "task_type", "peft_version", "base_model_name_or_path", "revision"),
    *("auto_mapping", "inference_mode", "lora_dropout", "init_lora_weights", "megatron_core"),
    *("runtime_config", "ensure_weight_tying"),
)
"""Settings of an adapter that its merged weights do not depend on."""
HIGHEST_RANK = 4096
MATRICES = ["c_attn", "c_proj", "c_fc"]
"""All matrices of GPT-2's blocks."""


def add_lora(model: Any, settings: TrainConfig, *, grown: bool = False) -> Any:
    """Return the model with LoRA on the matrices of its blocks. The rows of the template's tokens,
    which a base model has never seen, are trained too; everything else is frozen.

    Args:
        model: A PackedGPT2.
        grown: Some of its positions are new, so train all of them too.
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
    torch.manual_seed(settings.seed)  # of LoRA's first matrix; the second one starts at 0
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5.23 for a name that has become another.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        adapted: Any = get_peft_model(model, config)
    # An absolute path, so that the adapter finds its base from any working directory.
    folder = None if settings.model == "starter" else local_folder(settings.model)
    config.base_model_name_or_path = str(folder.resolve()) if folder else settings.model
    # peft would look the base up on the Hub to see whether its embeddings have grown.
    adapted.save_pretrained = functools.partial(
        adapted.save_pretrained, save_embedding_layers=False
    )
    return adapted


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
        # For those who load the adapter. Set only now: in training, peft would wrap the model in a
        # class that passes arguments which PackedGPT2 does not take.
        model.peft_config["default"].task_type = "CAUSAL_LM"
        model.save_pretrained(folder)
        save_tokenizer(folder, positions)


def read_adapter(folder: ModelFolder) -> Any:
    """Return the LoraConfig of an adapter.

    Only known settings reach peft: others may name code to import, or be regular expressions that
    take forever.

    Raises:
        CheckpointError: The settings cannot be read, or are not those of a supported adapter.
    """
    from peft import LoraConfig

    file = folder.path / ADAPTER
    settings = read_object(file)
    plain = LoraConfig()
    for key, value in settings.items():
        if key in USED_SETTINGS or key in IGNORED_SETTINGS:
            continue
        if value and value != getattr(plain, key, None):
            raise CheckpointError(
                f"{folder.name} is an adapter with {key}, which gpt2chat does not support. Merge "
                "it into its base with peft, and choose the merged model.",
                setting="model",
            )
    sound = {
        "peft_type": settings.get("peft_type") == "LORA",
        "target_modules": _are_names(settings.get("target_modules")),
        "modules_to_save": settings.get("modules_to_save") is None
        or _are_names(settings["modules_to_save"]),
        "r": type(settings.get("r")) is int and 1 <= settings["r"] <= HIGHEST_RANK,
        "init_lora_weights": settings.get("init_lora_weights", True) in (True, False, "gaussian"),
    }
    for key, holds in sound.items():
        if not holds:
            value = json.dumps(settings.get(key))[:50]
            raise CheckpointError(
                f"{file}: {key} cannot be {value}. gpt2chat reads LoRA and DoRA adapters whose "
                "target_modules is a list of names.",
                setting="model",
            )
    with reading(file):
        return LoraConfig(**{key: settings[key] for key in USED_SETTINGS if key in settings})


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(name, str) and re.fullmatch(r"[\w.]+", name) for name in value
    )


def apply_adapter(base: Any, folder: ModelFolder) -> Any:
    """Return a base model with the adapter in a folder merged into it.

    Raises:
        CheckpointError: The adapter is damaged, or belongs to another base.
    """
    from peft import get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    config, file = read_adapter(folder), folder.path / ADAPTER_WEIGHTS
    with reading(file), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        # As in weights.py: safetensors says "no such file" of one without read permission.
        file.open("rb").close()
        adapted: Any = get_peft_model(base, config)
        result: Any = set_peft_model_state_dict(adapted, load_file(file))
        parts = re.compile(r"lora_|(?<!lm_head\.token_adapter\.)trainable_tokens_|modules_to_save")
        # Tensors of the base are missing too, as they should be; and the tied head has the rows of
        # the embeddings.
        missing = [key for key in result.missing_keys if parts.search(key)]
        if missing or result.unexpected_keys:
            other = min(missing or result.unexpected_keys)
            raise ValueError(f"{'lacks' if missing else 'has an unknown'} tensor {other}")
        merged: Any = adapted.merge_and_unload()
    # peft leaves merged weights frozen.
    return merged.requires_grad_(True)

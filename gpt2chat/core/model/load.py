"""GPT-2 for the chat template: from a folder or the Hub, embeddings grown, on a device."""

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2LMHeadModel
from transformers.utils import logging

from gpt2chat.core.errors import CheckpointError, NetworkError
from gpt2chat.core.model import lora
from gpt2chat.core.model.packed import PackedGPT2
from gpt2chat.core.model.weights import GELUS
from gpt2chat.core.runs import local_folder
from gpt2chat.core.text.template import BOS, PAD
from gpt2chat.core.text.tokens import EOT_ID, GPT2_VOCAB, SPECIAL_IDS, STOP_IDS, VOCAB

# The terminal is report's: no bars and advice from inside the libraries.
logging.set_verbosity_error()
logging.disable_progress_bar()

LAYER = re.compile(r"\bh\.\d+\.(ln_|attn|mlp)")
"""In the names of a layer's tensors."""
Mismatch = tuple[str, Sequence[int], Sequence[int]]
"""A tensor's name, the shape it has, and the one it should have."""


def load_model(name: str, seed: int = 0, *, packed: bool = False) -> GPT2LMHeadModel:
    """Return a GPT-2 in float32 on the CPU whose vocabulary has the template's tokens.

    A base model's embeddings grow from 50,257 to 50,264 rows; the rows are drawn around the mean
    of the old ones with their covariance (transformers' mean resizing). Positions keep the rows
    they have learned.

    Args:
        name: `starter`, a folder or a name on the Hugging Face Hub.
        seed: Of the drawn rows.
        packed: The model that trains on packed rows (core/model/packed.py).

    Raises:
        CheckpointError: The folder is no GPT-2 model, is damaged, or its weights are not those of
            its config.
        NetworkError: The name cannot be had from the Hub.
    """
    folder = local_folder(name) or download(name)
    base = lora.base_of(folder, name)
    if base is not None:
        whole = load_model(base, seed, packed=packed)
        return lora.apply_adapter(whole, folder, name)
    check_folder(folder, name)
    kind: Any = PackedGPT2 if packed else GPT2LMHeadModel
    try:
        model, found = kind.from_pretrained(
            str(folder),
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            attn_implementation=PackedGPT2.attention if packed else "sdpa",
            # transformers would refuse them with a report that is not shown: see _check_shapes.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # safetensors, json and torch each have errors of their own
        cause = " ".join(str(error).split())[:200]
        raise CheckpointError(f"--model {name} cannot be loaded: {cause}") from error
    _check_shapes(found["mismatched_keys"], name)
    _check_layers(found["missing_keys"], found["unexpected_keys"], name)
    if model.config.activation_function in GELUS:
        blocks: Any = model.transformer.h
        for block in blocks:
            # The same function as GPT-2's gelu_new, which runs as one kernel and not as eight.
            block.mlp.act = nn.GELU(approximate="tanh")
    if model.config.vocab_size == GPT2_VOCAB:
        torch.manual_seed(seed)
        model.resize_token_embeddings(VOCAB, mean_resizing=True)
    return set_ids(model)


def grow_positions(model: GPT2LMHeadModel, positions: int) -> None:
    """Give a model more positions: the rows it has learned are stretched over them.

    New rows lie on straight lines between learned ones, so a short text moves a little too, until
    it is trained. Copies of rows keep it as it was, and were far worse beyond (docs/log.md).
    """
    transformer: Any = model.transformer
    learned: torch.Tensor = transformer.wpe.weight.detach()
    stretched = F.interpolate(learned.T[None], positions, mode="linear", align_corners=True)
    transformer.wpe = nn.Embedding.from_pretrained(stretched[0].T.contiguous(), freeze=False)
    model.config.n_positions = model.config.n_ctx = positions


def set_ids(model: GPT2LMHeadModel) -> GPT2LMHeadModel:
    """Write the template's token ids, and where generation stops, into the model's configs."""
    config: Any = model.config
    config.bos_token_id = SPECIAL_IDS[BOS]
    config.pad_token_id = SPECIAL_IDS[PAD]
    config.eos_token_id = EOT_ID
    # llama.cpp's converter reads n_ctx, which transformers does not write.
    config.n_ctx = config.n_positions
    generation: Any = model.generation_config
    generation.bos_token_id = SPECIAL_IDS[BOS]
    generation.pad_token_id = SPECIAL_IDS[PAD]
    generation.eos_token_id = list(STOP_IDS)
    return model


def check_folder(folder: Path, name: str) -> None:
    """Refuse a folder that holds no GPT-2 with the template's or GPT-2's own vocabulary.

    Raises:
        CheckpointError: What is wrong, and what to give instead.
    """
    try:
        config = dict[str, Any](json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"--model {name} is no model folder: it has no readable config.json. "
            "Give a run such as runs/sft, a GPT-2 folder, or starter."
        ) from error
    if config.get("model_type") != "gpt2":
        kind = config.get("model_type")
        raise CheckpointError(f"--model {name} is of type {kind}; gpt2chat takes GPT-2 only.")
    if config.get("vocab_size") not in (GPT2_VOCAB, VOCAB):
        raise CheckpointError(
            f"--model {name} has a vocabulary of {config.get('vocab_size')}; it must be GPT-2's "
            f"{GPT2_VOCAB}, or {VOCAB} with the chat template's tokens."
        )
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"--model {name} has no weights: there is no .safetensors file in it. "
            "An unfinished run is continued with --resume."
        )


def _check_shapes(mismatched: Collection[Mismatch], name: str) -> None:
    """Refuse weights that are not of the shapes which config.json says."""
    if mismatched:
        tensor, shape, expected = min(mismatched)
        raise CheckpointError(
            f"--model {name} cannot be loaded: its tensor {tensor} has the shape {tuple(shape)}, "
            f"and its config.json asks for {tuple(expected)}."
        )


def _check_layers(missing: Collection[str], unexpected: Collection[str], name: str) -> None:
    """Refuse weights that lack a tensor, or have layers that config.json does not: transformers
    draws the one at random, and drops the others."""
    if missing:
        raise CheckpointError(
            f"--model {name} cannot be loaded: its config.json asks for the tensor {min(missing)}, "
            "which its weights lack."
        )
    # Masks that older versions saved too are no weights.
    masks = (".attn.bias", ".attn.masked_bias")
    layers = [key for key in unexpected if LAYER.search(key) and not key.endswith(masks)]
    if layers:
        raise CheckpointError(
            f"--model {name} cannot be loaded: its tensor {min(layers)} is of a layer that its "
            "config.json does not have."
        )


def download(name: str) -> Path:
    """Return the local copy of a model on the Hub: its config and safetensors, never a pickle.

    Raises:
        NetworkError: There is no such name, no right to it, or no network.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    offline = "Without network: --model starter, or --model with a folder."
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except GatedRepoError as error:
        raise NetworkError(f"--model {name} is gated. Type hf auth login first.") from error
    except RepositoryNotFoundError as error:
        raise NetworkError(f"--model {name}: no such folder, nor name on the Hub.") from error
    except HFValidationError as error:
        raise CheckpointError(f"--model {name}: no such folder, and no name of the Hub.") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise NetworkError(f"Cannot reach the Hugging Face Hub for {name}. {offline}") from error

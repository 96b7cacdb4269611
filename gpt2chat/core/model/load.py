"""Load GPT-2 into transformers, with the template's tokens added to its vocabulary."""

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from gpt2chat.core.files import reading
from gpt2chat.core.model import lora
from gpt2chat.core.model.checkpoint import no_bars
from gpt2chat.core.model.folder import CONFIG, DEFAULTS, read_config
from gpt2chat.core.model.names import ModelFolder, resolve_model
from gpt2chat.core.model.packed import PackedGPT2
from gpt2chat.core.model.weights import GELUS, check_finite, read_tensors
from gpt2chat.core.text.template import BOS, PAD
from gpt2chat.core.text.tokens import EOT_ID, GPT2_VOCAB, SPECIAL_IDS, STOP_IDS, VOCAB

SETTINGS = (
    *(*DEFAULTS, "initializer_range", "reorder_and_upcast_attn"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop"),
)
"""Settings that are used of a config.json. All others, such as code to run, are ignored."""


def load_model(model: str | ModelFolder, seed: int = 0, *, packed: bool = False) -> GPT2LMHeadModel:
    """Return a GPT-2 in float32 on the CPU whose vocabulary has the template's tokens.

    A base model's embeddings grow from 50,257 to 50,264 rows; the rows are drawn around the mean
    of the old ones with their covariance (transformers' mean resizing). Rows that only pad the
    vocabulary are dropped first. Learned position embeddings are unchanged.

    Args:
        model: A run, a model folder, a name on the Hugging Face Hub or `starter`; or what
            `resolve_model` returned for it.
        seed: Seed of the drawn rows.
        packed: Return the class that trains on packed sequences (core/model/packed.py).

    Raises:
        CheckpointError: It is not a GPT-2, or its files are damaged.
        NetworkError: The model cannot be downloaded from the Hub.
    """
    folder = resolve_model(model) if isinstance(model, str) else model
    if folder.base is not None:
        return lora.apply_adapter(load_model(folder.base, seed, packed=packed), folder)
    settings = read_config(folder.path, folder.name)
    tensors = read_tensors(folder, settings)
    if not folder.is_chat:
        settings["vocab_size"] = GPT2_VOCAB
        tensors["wte.weight"] = tensors["wte.weight"][:GPT2_VOCAB].contiguous()
    # From tensors that are checked already: `from_pretrained` on the folder would allocate before
    # it compares shapes, and only log what is missing.
    kind: Any = PackedGPT2 if packed else GPT2LMHeadModel
    with reading(folder.path / CONFIG), no_bars():
        config = GPT2Config(**{name: settings[name] for name in SETTINGS if name in settings})
        # `read_tensors` has refused a head that differs, whatever the file says.
        config.tie_word_embeddings = True
        loaded: Any = kind.from_pretrained(
            None,
            config=config,
            state_dict={f"transformer.{name}": tensor for name, tensor in tensors.items()},
            dtype=torch.float32,
            attn_implementation=PackedGPT2.attention if packed else "sdpa",
        )
    check_finite(loaded, folder.name)
    if loaded.config.activation_function in GELUS:
        for block in loaded.transformer.h:
            # The same function as GPT-2's gelu_new, computed by one kernel instead of eight.
            block.mlp.act = nn.GELU(approximate="tanh")
    if not folder.is_chat:
        # The caller's random numbers stay as they are.
        with torch.random.fork_rng(devices=[]), silent("transformers.modeling_utils"):
            torch.manual_seed(seed)
            loaded.resize_token_embeddings(VOCAB, mean_resizing=True)
    return set_ids(loaded)


@contextmanager
def silent(name: str) -> Generator[None]:
    """Drop what this thread logs under a name: advice to callers of a library."""
    thread, logger = threading.get_ident(), logging.getLogger(name)

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(from_elsewhere)
    try:
        yield
    finally:
        logger.removeFilter(from_elsewhere)


def grow_positions(model: GPT2LMHeadModel, positions: int) -> None:
    """Give a model more positions by stretching the learned rows over them.

    New rows are linear interpolations of learned ones, so the output for short texts changes a
    little too, until they are trained. Copied rows would keep it, but were far worse past the
    learned positions (docs/log.md).
    """
    transformer: Any = model.transformer
    learned: torch.Tensor = transformer.wpe.weight.detach()
    # With aligned corners the first and the last learned row stay at the two ends.
    stretched = F.interpolate(learned.T[None], positions, mode="linear", align_corners=True)
    transformer.wpe = nn.Embedding.from_pretrained(stretched[0].T.contiguous(), freeze=False)
    model.config.n_positions = model.config.n_ctx = positions


def set_ids(model: GPT2LMHeadModel) -> GPT2LMHeadModel:
    """Write the template's token ids, and those that end generation, into the model's configs."""
    config: Any = model.config
    config.bos_token_id = SPECIAL_IDS[BOS]
    config.pad_token_id = SPECIAL_IDS[PAD]
    config.eos_token_id = EOT_ID
    # llama.cpp's converter reads n_ctx, which transformers does not write.
    config.n_ctx = config.n_positions
    model.generation_config = GenerationConfig(
        bos_token_id=SPECIAL_IDS[BOS],
        pad_token_id=SPECIAL_IDS[PAD],
        eos_token_id=list(STOP_IDS),
        use_cache=True,
    )
    return model

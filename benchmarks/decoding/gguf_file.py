"""A GPT-2 folder as a GGUF file for llama.cpp: weights in 8-bit blocks, as llama-quantize has them.

llama.cpp's own converter is no package, and it refuses tokenizers that it does not know. No
tokenizer is written here: token ids go in and come out.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import GPT2LMHeadModel

OUTSIDE = {
    "transformer.wte.weight": "token_embd.weight",
    "transformer.wpe.weight": "position_embd.weight",
    "transformer.ln_f.weight": "output_norm.weight",
    "transformer.ln_f.bias": "output_norm.bias",
}
"""Names of transformers and of llama.cpp."""
BLOCK = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def write(folder: Path, file: Path) -> None:
    """Write the model in a folder to a file: Q8_0, but for positions, norms and biases."""
    gguf: Any = importlib.import_module("gguf")
    kind: Any = GPT2LMHeadModel
    model = kind.from_pretrained(str(folder), dtype="float32")
    writer = gguf.GGUFWriter(str(file), "gpt2")
    config = model.config
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_Q8_0))
    types = gguf.GGMLQuantizationType
    for name, values, matrix in tensors(model.state_dict(), config.n_layer):
        form = types.Q8_0 if matrix else types.F32
        writer.add_tensor(name, gguf.quants.quantize(values, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(
    state: dict[str, Tensor], layers: int
) -> Iterator[tuple[str, NDArray[np.float32], bool]]:
    """Yield each tensor with llama.cpp's name for it, and whether it is multiplied with."""
    for theirs, name in OUTSIDE.items():
        yield name, state[theirs].numpy(), theirs == "transformer.wte.weight"
    for layer in range(layers):
        for theirs, name in BLOCK.items():
            weight = state[f"transformer.h.{layer}.{theirs}.weight"]
            bias = state[f"transformer.h.{layer}.{theirs}.bias"]
            # GPT-2 stores (in, out); all others (out, in).
            yield f"blk.{layer}.{name}.weight", weight.t().contiguous().numpy(), weight.dim() == 2
            yield f"blk.{layer}.{name}.bias", bias.numpy(), False

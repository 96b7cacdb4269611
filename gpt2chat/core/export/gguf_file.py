"""Write a model as a GGUF file for llama.cpp and the programs built on it, and read it back.

The tensors, the vocabulary and the token types are those that llama.cpp's own converter writes.
"""

import json
from pathlib import Path
from typing import Any

import torch
from gguf import (
    GGML_QUANT_SIZES,
    GGMLQuantizationType,
    GGUFReader,
    GGUFWriter,
    LlamaFileType,
    TokenType,
    dequantize,
    quantize,
)
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from gpt2chat.core.config.export import ExportPrecision
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.errors import ExportError
from gpt2chat.core.export.runtime import ByGenerator, ByTokenizer
from gpt2chat.core.generation.generate import Generator
from gpt2chat.core.model.weights import GELUS, Weights, expected_shapes
from gpt2chat.core.text.template import BOS, CHAT_TEMPLATE, PAD
from gpt2chat.core.text.tokens import (
    ENDOFTEXT_ID,
    EOT_ID,
    GPT2_VOCAB,
    SPECIAL_IDS,
    load_tokenizer,
)

FORMS: dict[ExportPrecision, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "fp32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "fp16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
"""The number formats of matrices, each with the name that llama.cpp shows for the whole file."""
NAMES = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
"""llama.cpp's names for the parts of GPT2Model."""


def write_gguf(
    weights: Weights, file: Path, precision: ExportPrecision, name: str, licence: str | None
) -> None:
    """Write a model, its tokenizer, its template and its sampling defaults to a GGUF file.

    Raises:
        ExportError: llama.cpp's GPT-2 does not compute what this model computes.
    """
    if weights.activation not in GELUS or not weights.scaled or weights.scaled_by_layer:
        raise ExportError(
            f"{name} has another activation or scale of attention than GPT-2, which llama.cpp "
            'cannot run. Export it with `to="onnx"`.',
            setting="to",
        )
    tensors, form = weights.tensors, FORMS[precision]
    positions, width = tensors["wpe.weight"].shape
    writer = GGUFWriter(file, "gpt2")
    writer.add_type("model")
    writer.add_name(name)
    if licence:
        writer.add_license(licence)
    writer.add_block_count(weights.layers)
    writer.add_context_length(positions)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(tensors["h.0.mlp.c_fc.weight"].shape[1])
    writer.add_head_count(weights.heads)
    writer.add_layer_norm_eps(weights.eps)
    writer.add_file_type(form[1])
    writer.add_quantization_version(2)
    sampling = Sampling()
    writer.add_sampling_temp(sampling.temperature)
    writer.add_sampling_top_k(sampling.top_k)
    writer.add_sampling_top_p(sampling.top_p)
    writer.add_sampling_min_p(sampling.min_p)
    # llama.cpp applies the penalty to the scores as they are. GPT-2's lie tens below 0, so a
    # penalty of 1.1 would forbid every word used once (core/generation/sampling.py).
    writer.add_sampling_penalty_repeat(1.0)
    add_tokenizer(writer)
    for key, tensor in tensors.items():
        # GPT-2 stores its layers' matrices as (in, out), all other architectures as (out, in).
        values = tensor.t() if tensor.dim() == 2 and key.startswith("h.") else tensor
        # Vectors and positions stay in float32, as llama.cpp's converter writes them.
        is_matrix = tensor.dim() == 2 and key != "wpe.weight"
        kind = form[0] if is_matrix else GGMLQuantizationType.F32
        # The embeddings are the output head too. llama.cpp's quantizer also keeps those in more
        # bits than the other matrices.
        if key == "wte.weight" and kind is GGMLQuantizationType.Q4_0:
            kind = GGMLQuantizationType.Q8_0
        # A quantized row consists of whole blocks.
        block, _ = GGML_QUANT_SIZES[kind]
        kind = kind if values.shape[-1] % block == 0 else GGMLQuantizationType.F16
        data = quantize(values.contiguous().numpy(), kind)
        writer.add_tensor(gguf_name(key), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(key: str) -> str:
    """Return llama.cpp's name for a tensor: blk.0.attn_qkv.bias for h.0.attn.c_attn.bias."""
    part, _, kind = key.rpartition(".")
    layer = ""
    if part.startswith("h."):
        _, index, part = part.split(".", 2)
        layer = f"blk.{index}."
    return f"{layer}{NAMES[part]}.{kind}"


def add_tokenizer(writer: GGUFWriter) -> None:
    """Add the vocabulary, the special tokens and the chat template to a file."""
    tokenizer = json.loads(load_tokenizer().to_str())
    ids: dict[str, int] = {**tokenizer["model"]["vocab"], **SPECIAL_IDS}
    control = {ENDOFTEXT_ID, *SPECIAL_IDS.values()}
    names = sorted(ids, key=ids.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    kinds = (TokenType.CONTROL, TokenType.NORMAL)
    writer.add_token_types([kinds[index not in control] for index in range(len(names))])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(SPECIAL_IDS[BOS])
    # llama.cpp stops at the end of turn and at every token that it knows as an end of generation.
    writer.add_eos_token_id(EOT_ID)
    writer.add_eot_token_id(EOT_ID)
    writer.add_pad_token_id(SPECIAL_IDS[PAD])
    # The template writes the first token itself.
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


class GgufContents(ByTokenizer, ByGenerator):
    """What a GGUF file holds, run by gpt2chat: its own tensors, vocabulary and template.

    It shows what is in the file. A program that reads the file adds its own rounding.
    """

    name = "gpt2chat, from the file"

    def __init__(self, file: Path):
        reader = GGUFReader(file)
        fields: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
        kinds = zip(
            fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"], strict=True
        )
        control = [name for name, kind in kinds if kind == TokenType.CONTROL]
        names: list[str] = fields["tokenizer.ggml.tokens"]
        # The names after GPT-2's vocabulary are the special tokens, added below.
        vocabulary = {name: at for at, name in enumerate(names[:GPT2_VOCAB])}
        merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
        tokenizer: Any = Tokenizer(BPE(vocabulary, merges))
        tokenizer.pre_tokenizer = ByteLevel(fields["tokenizer.ggml.add_space_prefix"])
        tokenizer.add_special_tokens(control)
        ByTokenizer.__init__(
            self,
            PreTrainedTokenizerFast(
                tokenizer_object=tokenizer, chat_template=fields["tokenizer.chat_template"]
            ),
        )
        # Copied, since a float32 tensor would be a view of the file, which is mapped read-only.
        stored = {
            tensor.name: torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
            for tensor in reader.tensors
        }
        shapes = expected_shapes(
            {
                "n_layer": fields["gpt2.block_count"],
                "n_embd": fields["gpt2.embedding_length"],
                "n_inner": fields["gpt2.feed_forward_length"],
                "vocab_size": len(names),
                "n_positions": fields["gpt2.context_length"],
            }
        )
        tensors: dict[str, Tensor] = {}
        for key in shapes:
            tensor = stored[gguf_name(key)]
            is_layer_matrix = tensor.dim() == 2 and key.startswith("h.")
            tensors[key] = tensor.t().contiguous() if is_layer_matrix else tensor
        weights = Weights(
            tensors,
            heads=fields["gpt2.attention.head_count"],
            eps=fields["gpt2.attention.layer_norm_epsilon"],
            scaled=True,
            scaled_by_layer=False,
            activation="gelu_new",
        )
        ByGenerator.__init__(self, Generator(weights, torch.device("cpu"), "fp32"))

"""Write a model for onnxruntime and transformers.js, and run it in onnxruntime.

Inputs and outputs have the names that transformers.js expects of a decoder with a cache of keys and
values. The graph is written out here rather than traced from transformers, whose cache objects and
masks no exporter follows for long.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn
from transformers import AutoTokenizer, GPT2LMHeadModel
from transformers.activations import ACT2FN

from gpt2chat.core.config.export import ExportPrecision
from gpt2chat.core.evaluation.statistics import FloatArray
from gpt2chat.core.export.runtime import ByTokenizer, Continuation, continuation
from gpt2chat.core.model.checkpoint import save_tokenizer
from gpt2chat.core.model.load import silent
from gpt2chat.core.model.weights import Weights, weights_of
from gpt2chat.core.text.template import CHAT_TEMPLATE
from gpt2chat.core.text.tokens import STOP_IDS

FILES: dict[ExportPrecision, str] = {"fp32": "model.onnx", "int8": "model_quantized.onnx"}
"""Names by which transformers.js finds the weights, in the folder `onnx`."""
LARGEST_FILE = 1_800_000_000
"""Bytes of weights from which they are in a file next to the graph: protobuf ends at 2 GiB."""


class Graph(nn.Module):
    """GPT-2's forward pass over tokens that follow those in a cache."""

    def __init__(self, weights: Weights):
        super().__init__()
        self.weights = weights
        self.layers = weights.layers
        self.activation: Any = ACT2FN[weights.activation]
        for name, tensor in weights.tensors.items():
            self.register_buffer(name.replace(".", "_"), tensor)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the scores after each token, and the cache with the tokens' keys and values.

        Args:
            input_ids: Shape (batch, tokens).
            attention_mask: 1 at tokens to attend to, 0 at padding. Shape (batch, past + tokens).
            position_ids: Shape (batch, tokens).
            past: Keys and values of each layer, in turn. Shape (batch, heads, past, head width).

        Returns:
            Scores of shape (batch, tokens, vocab), then keys and values as in `past`.
        """
        t, weights = self.tensor, self.weights
        batch, tokens = input_ids.shape
        x = F.embedding(input_ids, t("wte.weight")) + F.embedding(position_ids, t("wpe.weight"))
        width = x.shape[-1]
        places = torch.arange(attention_mask.shape[1])
        # A token sees what is at most as far to the right as itself.
        causal = places[None, :] <= places[past[0].shape[2] :][:, None]
        visible = causal[None, None] & attention_mask[:, None, None, :].bool()
        cache: list[Tensor] = []
        for index in range(self.layers):
            layer = f"h.{index}"
            normed = self.norm(x, f"{layer}.ln_1")
            qkv = self.linear(normed, f"{layer}.attn.c_attn").split(width, dim=-1)
            query, key, value = (
                part.reshape(batch, tokens, weights.heads, -1).transpose(1, 2) for part in qkv
            )
            key = torch.cat([past[2 * index], key], dim=2)
            value = torch.cat([past[2 * index + 1], value], dim=2)
            cache += [key, value]
            scale = (width // weights.heads) ** -0.5 if weights.scaled else 1.0
            scale = scale / (index + 1) if weights.scaled_by_layer else scale
            scores = (query * scale) @ key.transpose(-1, -2)
            # Not minus infinity: a row of padding would become NaN.
            scores = torch.where(visible, scores, torch.finfo(scores.dtype).min)
            mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, tokens, width)
            x = x + self.linear(mixed, f"{layer}.attn.c_proj")
            inner = self.linear(self.norm(x, f"{layer}.ln_2"), f"{layer}.mlp.c_fc")
            x = x + self.linear(self.activation(inner), f"{layer}.mlp.c_proj")
        return (self.norm(x, "ln_f") @ t("wte.weight").T, *cache)

    def tensor(self, name: str) -> Tensor:
        """Return a tensor by its name in GPT2Model."""
        return getattr(self, name.replace(".", "_"))

    def norm(self, x: Tensor, name: str) -> Tensor:
        """Return x, normalised by the layer norm of that name."""
        weight, bias = self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")
        return F.layer_norm(x, x.shape[-1:], weight, bias, self.weights.eps)

    def linear(self, x: Tensor, name: str) -> Tensor:
        """Return x @ weight + bias; GPT-2 stores weights as (in, out)."""
        return x @ self.tensor(f"{name}.weight") + self.tensor(f"{name}.bias")


def write_onnx(model: GPT2LMHeadModel, folder: Path, precisions: Sequence[ExportPrecision]) -> None:
    """Write the graph in each precision, the configs and the tokenizer."""
    weights = weights_of(model)
    model.config.save_pretrained(folder)
    assert model.generation_config is not None
    model.generation_config.save_pretrained(folder)
    save_tokenizer(folder, model.config.n_positions)
    # transformers.js looks for the template in this file.
    settings_file = folder / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text("utf-8"))
    settings["chat_template"] = CHAT_TEMPLATE
    settings_file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / "onnx").mkdir()
    exact = folder / "onnx" / FILES["fp32"]
    heads, head_width = weights.heads, weights.tensors["wte.weight"].shape[1] // weights.heads
    # Sizes above 1 that all differ: those of 1 and equal ones would become constants.
    batch, tokens, before = 2, 3, 4
    past = [torch.zeros(batch, heads, before, head_width) for _ in range(2 * weights.layers)]
    inputs = (
        torch.zeros(batch, tokens, dtype=torch.long),
        torch.ones(batch, before + tokens, dtype=torch.long),
        torch.arange(before, before + tokens).expand(batch, -1).contiguous(),
        past,
    )
    parts = [f"{index}.{part}" for index in range(weights.layers) for part in ("key", "value")]
    cached = {0: "batch_size", 2: "past_sequence_length"}
    fresh = {0: "batch_size", 1: "sequence_length"}
    size = sum(tensor.nbytes for tensor in weights.tensors.values())
    with warnings.catch_warnings(), silent("torch.onnx._internal.exporter._registration"):
        # That torchvision is absent, and which of two names for one size it takes.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Graph(weights).eval(),
            inputs,
            exact,
            input_names=[
                *("input_ids", "attention_mask", "position_ids"),
                *(f"past_key_values.{part}" for part in parts),
            ],
            output_names=["logits", *(f"present.{part}" for part in parts)],
            dynamic_shapes=(
                fresh,
                {0: "batch_size", 1: "total_sequence_length"},
                fresh,
                [cached] * len(parts),
            ),
            dynamo=True,
            external_data=size > LARGEST_FILE,
            verbose=False,
        )
    if "int8" in precisions:
        _quantize(exact, folder / "onnx" / FILES["int8"])
    # int8 is made from it, so it is always written, with large weights in a second file.
    if "fp32" not in precisions:
        for file in (folder / "onnx").glob(f"{exact.name}*"):
            file.unlink()


def _quantize(exact: Path, file: Path) -> None:
    """Write a graph with its matrices in int8, and numbers between layers rounded as they come.

    The output head is the embeddings transposed. onnxruntime quantizes only a matrix of its own,
    and not the embeddings. So the head becomes one, and tokens are looked up in its columns, each
    of which has its own scale: one matrix in 8 bits in place of one in 8 and one in 32.
    """
    model: Any = onnx.load(exact)
    constants = {each.name: each for each in model.graph.initializer}
    (turned,) = (
        node
        for node in model.graph.node
        if node.op_type == "Transpose" and node.input[0] in constants
    )
    (lookup,) = (
        node
        for node in model.graph.node
        if node.op_type == "Gather" and node.input[0] == turned.input[0]
    )
    table, head = turned.input[0], turned.output[0]
    columns = np.ascontiguousarray(onnx.numpy_helper.to_array(constants[table]).T)
    model.graph.initializer.append(onnx.numpy_helper.from_array(columns, head))
    model.graph.node.remove(turned)
    with silent("root"):  # advice
        quantize_dynamic(
            model,
            file,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
    model = onnx.load(file)
    (at,) = (at for at, node in enumerate(model.graph.node) if node.name == lookup.name)
    ids, embedded = lookup.input[1], lookup.output[0]
    names = [f"{embedded}_{part}" for part in ("int8", "float", "scale", "columns")]
    make: Any = onnx.helper.make_node
    nodes = [
        make("Gather", [f"{head}_quantized", ids], [names[0]], axis=1),  # (width, batch, tokens)
        make("Cast", [names[0]], [names[1]], to=onnx.TensorProto.FLOAT),
        make("Gather", [f"{head}_scale", ids], [names[2]]),  # (batch, tokens)
        make("Mul", [names[1], names[2]], [names[3]]),
        make("Transpose", [names[3]], [embedded], perm=[1, 2, 0]),
    ]
    del model.graph.node[at]
    # All at one place, so the last one goes in first.
    for node in reversed(nodes):
        model.graph.node.insert(at, node)
    # Nothing reads the float32 embeddings any more, and they are most of the file.
    (unused,) = (each for each in model.graph.initializer if each.name == table)
    model.graph.initializer.remove(unused)
    onnx.checker.check_model(model)
    onnx.save(model, file)


class OnnxRuntime(ByTokenizer):
    """A folder in onnxruntime on the CPU, with its cache; prompts by its own tokenizer."""

    def __init__(self, folder: Path, precision: ExportPrecision):
        super().__init__(AutoTokenizer.from_pretrained(folder))
        self.name = f"onnxruntime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session: Any = onnxruntime.InferenceSession(
            folder / "onnx" / FILES[precision], options, providers=["CPUExecutionProvider"]
        )
        self.empty = {
            each.name: np.zeros((1, each.shape[1], 0, each.shape[3]), dtype=np.float32)
            for each in self.session.get_inputs()
            if each.name.startswith("past_key_values.")
        }

    def run(self, ids: Sequence[int], cache: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the scores after each token, shape (tokens, vocab), and the longer cache."""
        before = next(iter(cache.values())).shape[2]
        end = before + len(ids)
        scores, *grown = self.session.run(
            None,
            {
                "input_ids": np.array([ids], dtype=np.int64),
                "attention_mask": np.ones((1, end), dtype=np.int64),
                "position_ids": np.arange(before, end, dtype=np.int64)[None],
                **cache,
            },
        )
        return scores[0], dict(zip(cache, grown, strict=True))

    def logprobs(self, ids: Sequence[int], start: int) -> FloatArray:
        scores, _ = self.run(ids, self.empty)
        logps = torch.from_numpy(scores[start - 1 : -1]).log_softmax(-1)
        return logps.gather(1, torch.tensor(ids[start:])[:, None])[:, 0].double().numpy()

    def reply(self, prompt: Sequence[int], limit: int) -> Continuation:
        drawn: list[int] = []
        scores, cache = self.run(prompt, self.empty)
        while True:
            drawn.append(int(scores[-1].argmax()))
            if drawn[-1] in STOP_IDS or len(drawn) == limit:
                return continuation(drawn)
            scores, cache = self.run(drawn[-1:], cache)

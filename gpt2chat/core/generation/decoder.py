"""Run GPT-2's forward pass with keys and values in one fixed block of memory, on any device."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpt2chat.core.model.weights import GELUS, Model, Weights, weights_of


class Linear(NamedTuple):
    """A linear map, y = x @ weight + bias, with the weight transposed as GPT-2 stores it."""

    weight: Tensor
    """Shape (in, out)."""
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.flatten(0, -2).to(self.weight.dtype), self.weight)
        return flat.view(*x.shape[:-1], -1)


class Block(NamedTuple):
    """The weights of one layer."""

    norm_1: tuple[Tensor, Tensor]
    qkv: Linear
    out: Linear
    norm_2: tuple[Tensor, Tensor]
    up: Linear
    down: Linear
    heads: int
    eps: float
    activation: Callable[[Tensor], Tensor]

    def project(self, x: Tensor) -> Tensor:
        """Return queries, keys and values side by side, shape (..., 3 * width)."""
        return self.qkv(normed(x, self.norm_1, self.eps))

    def split(self, x: Tensor) -> Tensor:
        """Return queries, keys and values, shape (3, texts, heads, tokens, head width)."""
        qkv = self.project(x)
        return qkv.view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the layer's output from its input and its attention, both (..., width)."""
        x = x + self.out(attended)
        inner = self.activation(self.up(normed(x, self.norm_2, self.eps)))
        return x + self.down(inner)


class Decoder:
    """Computes the scores after tokens of one or more texts.

    Each text has a slot in the cache for its keys and values. Attention reads a slot up to the
    positions that the caller writes, so going back in a text means writing again from there.
    Matrix products and the cache have `dtype`, all else is float32.
    """

    def __init__(self, model: Model, dtype: torch.dtype):
        """Take over a model's weights, converted to `dtype`. The cache has one slot."""
        weights = weights_of(model)
        self.dtype = dtype
        self.device = weights.device
        self.eps = weights.eps
        self.heads = weights.heads
        self.tokens = weights.tensors["wte.weight"]
        self.positions = weights.tensors["wpe.weight"]
        self.window = len(self.positions)
        self.norm = norm_of(weights, "ln_f")
        self.blocks = blocks_of(weights, dtype)
        self.caches = self.make_caches(1)
        """Keys and values of each layer. They are tensors of their own and not parts of one:
        compiled code writes into a tensor in place, but would copy the whole of a part."""
        self.compiled = False
        """Whether PyTorch compiles a step."""
        self._run_step: Callable[..., Tensor] = Decoder._step_scores

    def compile(self) -> None:
        """Let PyTorch compile a step into one graph, from the embeddings to the scores."""
        self.compiled = True
        self._run_step = torch.compile(Decoder._step_scores, fullgraph=True)

    @property
    def slots(self) -> int:
        """Number of texts that the cache has room for."""
        return self.caches[0].shape[1]

    def with_slots(self, slots: int, window: int) -> Self:
        """Return a decoder with the same weights and a cache of its own."""
        other = copy.copy(self)
        other.window = min(window, self.window)
        other.caches = other.make_caches(slots)
        return other

    def make_caches(self, slots: int) -> Sequence[Tensor]:
        """Return an empty cache for each layer, shape (2, slots, heads, positions, head width).

        Keys and values are one tensor, so that a step stores both with one kernel.
        """
        width = self.tokens.shape[1] // self.heads
        shape = (2, slots, self.heads, self.window, width)
        return [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in self.blocks]

    @torch.inference_mode()
    def extend(self, ids: Sequence[int], start: int, slot: int = 0) -> Tensor:
        """Run tokens of one text from position `start` on; return the scores after the last.

        Returns:
            Shape (vocab,), float32.
        """
        return self.scores(self._hidden(ids, start, slot)[-1:])[0]

    @torch.inference_mode()
    def along(self, ids: Sequence[int], start: int = 0, slot: int = 0) -> Tensor:
        """Run tokens of one text from position `start` on; return the scores after each.

        They are those of single steps, which in int8 are not those of a long prompt.

        Returns:
            Shape (tokens, vocab), float32.
        """
        return self.scores(self._hidden(ids, start, slot))

    def _hidden(self, ids: Sequence[int], start: int, slot: int) -> Tensor:
        """Return the hidden states of tokens of one text, shape (tokens, width)."""
        end = start + len(ids)
        x = self._embed(torch.tensor([ids], device=self.device), slice(start, end))
        # A whole text needs no mask, since SDPA has a causal kernel, nor does a single token.
        # Tokens that continue a text see all earlier positions: shape (tokens, positions).
        mask = None
        if start and len(ids) > 1:
            mask = torch.ones(len(ids), end, dtype=torch.bool, device=self.device).tril(start)
        with attention_kernels(self.device):
            for block, cache in zip(self.blocks, self.caches, strict=True):
                qkv = block.split(x)
                cache[:, slot, :, start:end] = qkv[1:, 0]
                attended = F.scaled_dot_product_attention(
                    qkv[0],
                    *cache[:, slot : slot + 1, :, :end].to(qkv.dtype),
                    attn_mask=mask,
                    is_causal=not start and len(ids) > 1,
                )
                x = block.finish(x, attended.transpose(1, 2).flatten(2))
        return x[0]

    @torch.inference_mode()
    def step(self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int]) -> Tensor:
        """Run one token in each of some slots, and return the scores after them.

        Returns:
            Shape (slots, vocab), float32.
        """
        return self.step_tensors(
            torch.tensor(tokens, device=self.device),
            torch.tensor(positions, device=self.device),
            torch.tensor(slots, device=self.device),
            max(positions) + 1,
        )

    def step_tensors(self, tokens: Tensor, positions: Tensor, slots: Tensor, length: int) -> Tensor:
        """Do what `step` does without reading a value on the CPU, so that a CUDA graph can hold it.

        Args:
            tokens: Shape (slots,), as are positions and slots.
            length: Number of positions that attention reads; above all of `positions`.
        """
        # Added to the scores of attention: 0 at the positions that a token sees, -inf elsewhere.
        # SDPA would make this from a mask of booleans again in each layer.
        seen = torch.arange(length, device=self.device) <= positions[:, None]
        mask = torch.where(seen, 0.0, -torch.inf).to(self.dtype)[:, None, None]
        if self.compiled:
            from torch._dynamo import maybe_mark_dynamic

            # One graph for any length, from the start. Otherwise a second one would be compiled in
            # the middle of a reply, where more positions are attended to for the first time.
            maybe_mark_dynamic(mask, 3)
        with attention_kernels(self.device):
            return self._run_step(self, self._head, tokens, positions, slots, mask)

    def _step_scores(
        self, head: Tensor, tokens: Tensor, positions: Tensor, slots: Tensor, mask: Tensor
    ) -> Tensor:
        """Run one token in each of some slots, from the embeddings to the scores.

        Args:
            head: `_head`, because compiled code cannot compute a cached property.
            mask: Shape (slots, 1, 1, length).
        """
        x = self._embed(tokens[:, None], positions[:, None])
        length = mask.shape[-1]
        for block, cache in zip(self.blocks, self.caches, strict=True):
            qkv = block.split(x)
            # Indices with a slice between them come first: (slots, 2, heads, head width).
            cache[:, slots, :, positions] = qkv[1:, :, :, 0].transpose(0, 1)
            cache = cache[:, :, :, :length]
            if len(slots) < cache.shape[1]:  # selecting slots copies, and mostly all of them run
                cache = cache[:, slots]
            attended = F.scaled_dot_product_attention(qkv[0], *cache.to(qkv.dtype), attn_mask=mask)
            x = block.finish(x, attended.transpose(1, 2).flatten(2))
        return F.linear(normed(x[:, -1], self.norm, self.eps).to(self.dtype), head).float()

    def _embed(self, ids: Tensor, positions: Tensor | slice) -> Tensor:
        return (self.tokens[ids] + self.positions[positions]).float()

    def scores(self, x: Tensor) -> Tensor:
        """Return the scores after hidden states of shape (tokens, width), in float32."""
        return F.linear(normed(x, self.norm, self.eps).to(self.dtype), self._head).float()

    @cached_property
    def _head(self) -> Tensor:
        return self.tokens.to(self.dtype)


def attention_kernels(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which a GPU's attention does not use cuDNN.

    PyTorch prefers cuDNN on an H100. It builds a plan for each new length of the keys, which others
    measured at 23 to 37 ms, and nearly every prompt has a length of its own. The setting is
    PyTorch's, for the whole process: another thread's attention has it too for that time.
    """
    if device.type == "cpu":
        return nullcontext()
    return sdpa_kernel(
        [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    )


def normed(x: Tensor, norm: tuple[Tensor, Tensor], eps: float) -> Tensor:
    """Return the layer norm of x, shape (..., width)."""
    return F.layer_norm(x, x.shape[-1:], *norm, eps=eps)


def blocks_of(weights: Weights, dtype: torch.dtype) -> list[Block]:
    """Return a model's layers, converted to `dtype` if they are not of that type."""

    def linear(name: str) -> Linear:
        weight, bias = weights.tensors[f"{name}.weight"], weights.tensors[f"{name}.bias"]
        return Linear(weight.to(dtype), bias.to(dtype))

    if weights.activation in GELUS:
        activation = gelu
    else:
        from transformers.activations import ACT2FN

        activation = ACT2FN[weights.activation]
    blocks: list[Block] = []
    for index in range(weights.layers):
        layer = f"h.{index}"
        qkv = linear(f"{layer}.attn.c_attn")
        # Attention divides scores by √(head width). A model that does not, or that also divides by
        # the layer's number, gets the correction in its query weights.
        factor = 1.0
        if not weights.scaled:
            factor *= (weights.tensors["wte.weight"].shape[1] / weights.heads) ** 0.5
        if weights.scaled_by_layer:
            factor /= index + 1
        if factor != 1:
            scale = torch.ones_like(qkv.bias)
            scale[: len(scale) // 3] = factor
            qkv = Linear(qkv.weight * scale, qkv.bias * scale)
        block = Block(
            norm_1=norm_of(weights, f"{layer}.ln_1"),
            qkv=qkv,
            out=linear(f"{layer}.attn.c_proj"),
            norm_2=norm_of(weights, f"{layer}.ln_2"),
            up=linear(f"{layer}.mlp.c_fc"),
            down=linear(f"{layer}.mlp.c_proj"),
            heads=weights.heads,
            eps=weights.eps,
            activation=activation,
        )
        blocks.append(block)
    return blocks


def norm_of(weights: Weights, name: str) -> tuple[Tensor, Tensor]:
    """Return gain and bias of a layer norm, shape (width,) each, in float32."""
    return weights.tensors[f"{name}.weight"].float(), weights.tensors[f"{name}.bias"].float()


def gelu(x: Tensor) -> Tensor:
    """Apply GELU in the tanh form that GPT-2 uses."""
    return F.gelu(x, approximate="tanh")

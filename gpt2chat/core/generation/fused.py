"""Decode a few texts on a GPU with Triton kernels, five for each layer of a step."""

from typing import NamedTuple

import torch
from torch import Tensor

from gpt2chat.core.generation.decoder import Decoder, Linear
from gpt2chat.core.model import triton_kernels
from gpt2chat.core.model.weights import Model

FEW_TEXTS = 4
"""Most texts that a step runs with these kernels. Each text reads the weights again, from the GPU's
second-level cache; PyTorch's products read them once for all. The limit is a guess until it is
measured (benchmarks/gpu.py)."""


class _Layer(NamedTuple):
    """The products of one layer with weights of shape (out, in): a program reads whole rows."""

    qkv: Linear
    out: Linear
    up: Linear
    down: Linear


class FusedDecoder(Decoder):
    """A decoder whose steps for few texts use Triton kernels; all else is PyTorch's.

    The kernels add in float32 where PyTorch rounds to `dtype` in between, so in bf16 the scores
    differ by rounding. A second copy of the layers' weights is kept, since prompts are computed
    from the first.
    """

    def __init__(self, model: Model, dtype: torch.dtype):
        super().__init__(model, dtype)
        self._layers = [
            _Layer(
                *(
                    Linear(linear.weight.t().contiguous(), linear.bias)
                    for linear in (block.qkv, block.out, block.up, block.down)
                )
            )
            for block in self.blocks
        ]

    def step_tensors(self, tokens: Tensor, positions: Tensor, slots: Tensor, length: int) -> Tensor:
        if len(tokens) > FEW_TEXTS:
            return super().step_tensors(tokens, positions, slots, length)
        x = self._embed(tokens, positions)
        for block, layer, cache in zip(self.blocks, self._layers, self.caches, strict=True):
            queries = triton_kernels.norm_qkv(
                x, block.norm_1, *layer.qkv, self.eps, cache, slots, positions
            )
            triton_kernels.attend_and_add(x, queries, cache, slots, positions, length, *layer.out)
            inner = triton_kernels.norm_product(x, block.norm_2, *layer.up, self.eps, gelu=True)
            triton_kernels.product_sum(x, inner, *layer.down)
        return triton_kernels.norm_product(x, self.norm, self._head, None, self.eps)

"""Decode on a CPU with int8 weights, which is the default of a chat there."""

import mmap
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from math import prod
from threading import Lock
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2chat.core.generation import kernels
from gpt2chat.core.generation.decoder import Decoder, Linear, blocks_of
from gpt2chat.core.generation.kernels import WEIGHT_TOP, Matrix, Norm
from gpt2chat.core.model.weights import Model, weights_of

INT8_TOKENS = 16
"""Most tokens that a pass runs with int8 weights. More of them are faster as a matrix product in
PyTorch, which is limited by arithmetic and not by memory (docs/generation.md)."""

_ONE_AT_A_TIME = Lock()
"""Held during a kernel if numba uses its own threads, which serve only one caller."""


class Int8Decoder(Decoder):
    """A decoder whose single steps read int8 weights; long prompts are computed in `dtype`.

    Each row of a matrix has one scale, activations are int16, the cache is bfloat16. Rows of
    weights have a KL divergence of 0.0013 nats from float32; groups of 32 weights had 0.0007, but
    need a float product for each group (docs/generation.md).
    """

    def __init__(self, model: Model, dtype: torch.dtype):
        super().__init__(model, dtype)
        blocks = blocks_of(weights_of(model), torch.float32)
        self._weights = kernels.Weights(
            norm_1=_norms([block.norm_1 for block in blocks]),
            qkv=_matrix([block.qkv for block in blocks]),
            out=_matrix([block.out for block in blocks]),
            norm_2=_norms([block.norm_2 for block in blocks]),
            up=_matrix([block.up for block in blocks]),
            down=_matrix([block.down for block in blocks]),
            norm_out=_norms([self.norm]),
            head=_matrix([Linear(self.tokens.T, torch.zeros(len(self.tokens)))]),
            eps=self.eps,
        )
        # As many threads as torch uses, but numba cannot use more than it started with.
        threads = torch.get_num_threads()
        self._threads = min(threads, numba.get_num_threads())
        self.step([0], [0], [0])  # compile the kernels, or load them, now and not at a reply
        # When its threads start, numba lets OpenMP's other users have all cores again.
        torch.set_num_threads(threads)

    def make_caches(self, slots: int) -> Sequence[Tensor]:
        # The kernels read all layers' keys as one array, and their values as another.
        width = self.tokens.shape[1] // self.heads
        shape = (2, len(self.blocks), slots, self.heads, self.window, width)
        numbers = _zeros(shape, np.uint16)  # numpy has no bfloat16
        self._keys, self._values = numbers
        return torch.from_numpy(numbers).view(torch.bfloat16).unbind(1)

    def extend(self, ids: Sequence[int], start: int, slot: int = 0) -> Tensor:
        if len(ids) > INT8_TOKENS:
            return super().extend(ids, start, slot)
        positions = range(start, start + len(ids))
        return self.forward(ids, positions, [slot] * len(ids), [len(ids) - 1])[0]

    def step(self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int]) -> Tensor:
        if len(tokens) > INT8_TOKENS:
            return self._step_in_products(tokens, positions, slots)
        return self.forward(tokens, positions, slots, range(len(tokens)))

    @torch.inference_mode()
    def _step_in_products(
        self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int]
    ) -> Tensor:
        """Do what `step` does, with matrix products in `dtype` and the kernel's attention.

        For 64 single queries of 71 keys in bfloat16, PyTorch's SDPA takes 4.2 ms a layer, more than
        all products of the layer; the kernel takes less than one (docs/log.md, 2026-11-25).
        """
        x = self._embed(torch.tensor(tokens), torch.tensor(positions))
        slot_array, position_array = np.asarray(slots), np.asarray(positions)
        scratch = np.empty((len(tokens) * self.heads, max(positions) + 1), np.float32)
        attended = torch.empty_like(x)
        out = attended.numpy()  # the same memory
        for block, keys, values in zip(self.blocks, self._keys, self._values, strict=True):
            qkv = block.project(x).float().numpy()
            self._call(kernels.attend, qkv, keys, values, slot_array, position_array, scratch, out)
            x = block.finish(x, attended)
        return super().scores(x)

    def along(self, ids: Sequence[int], start: int = 0, slot: int = 0) -> Tensor:
        # Never as matrix products: the scores are those that single steps give.
        parts: list[Tensor] = []
        for at in range(0, len(ids), INT8_TOKENS):
            part = ids[at : at + INT8_TOKENS]
            positions = range(start + at, start + at + len(part))
            parts.append(self.forward(part, positions, [slot] * len(part), range(len(part))))
        return torch.cat(parts)

    def forward(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        slots: Sequence[int],
        scored: Sequence[int],
    ) -> Tensor:
        """Run tokens with int8 weights and return the scores after some of them.

        Args:
            scored: Indices of the tokens after which scores are needed.

        Returns:
            Shape (scored, vocab), float32.
        """
        x: Any = self._embed(torch.tensor(tokens), torch.tensor(positions)).numpy()
        logits = np.empty((len(scored), len(self.tokens)), np.float32)
        self._call(
            kernels.forward,
            self._weights,
            self._keys,
            self._values,
            x,
            np.asarray(slots),
            np.asarray(positions),
            np.asarray(scored),
            logits,
        )
        return torch.from_numpy(logits)

    def scores(self, x: Tensor) -> Tensor:
        logits = np.empty((len(x), len(self.tokens)), np.float32)
        self._call(kernels.head, self._weights, x.numpy(), logits)
        return torch.from_numpy(logits)

    def _call(self, kernel: Callable[..., None], *arguments: Any) -> None:
        """Run a kernel on the decoder's threads."""
        # numba's number of threads belongs to the calling thread, and a chat's threads come and go.
        numba.set_num_threads(self._threads)
        # If numba finds neither TBB nor OpenMP, it aborts the process when two threads call it at
        # once. The layer is known once the number of threads has been set.
        layer: str = numba.threading_layer()  # pyright: ignore[reportPrivateImportUsage]
        with _ONE_AT_A_TIME if layer == "workqueue" else nullcontext():
            kernel(*arguments)


def _norms(pairs: Sequence[tuple[Tensor, Tensor]]) -> Norm:
    """Return the gains and biases of all layers' norms."""
    gains, biases = zip(*pairs, strict=True)
    return Norm(torch.stack(gains).numpy(), torch.stack(biases).numpy())


def _matrix(layers: Sequence[Linear]) -> Matrix:
    """Return a linear map of all layers in int8, with a scale for each row."""
    inputs, outputs = layers[0].weight.shape
    weight = _zeros((len(layers), outputs, inputs), np.int8)
    scale = np.zeros((len(layers), outputs), np.float32)
    for index, linear in enumerate(layers):
        rows = linear.weight.T.float()  # GPT-2 stores (in, out), the kernels read (out, in)
        # The largest weight of a row becomes ±127. A row of zeros gets a tiny scale, not 0.
        unit = (rows.abs().amax(1) / WEIGHT_TOP).clamp(min=torch.finfo(torch.float32).tiny)
        scale[index] = unit.numpy()
        torch.from_numpy(weight[index]).copy_((rows / unit[:, None]).round())
    bias = torch.stack([linear.bias.float() for linear in layers]).numpy()
    return Matrix(weight, scale, bias)


def _zeros(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return zeros in memory that Linux maps with huge pages.

    Reading through them takes a quarter less time (docs/log.md, 2026-11-25).
    """
    size = prod(shape)
    length = max(size * np.dtype(dtype).itemsize, 1)
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(shape, dtype)
    # Python's default is shared memory, which has small pages whatever is advised: a step took
    # 4.3 ms with it, 3.1 to 3.4 with private memory.
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype, size).reshape(shape)

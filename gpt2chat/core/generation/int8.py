"""The decoder with one-byte weights, on a CPU: what `chat` runs on by default."""

import mmap
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
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

FEW = 16
"""So many tokens at once are run with int8 weights; more are faster as a matrix product."""

_ONE_AT_A_TIME = Lock()


class Int8Decoder(Decoder):
    """A decoder whose single steps read int8 weights; long beginnings are run in `dtype`.

    Each row of a matrix has one scale, activations are int16, the cache is bfloat16.
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
        # As many threads as torch has, but numba cannot have more than it began with.
        threads = torch.get_num_threads()
        self._threads = min(threads, numba.get_num_threads())
        self.step([0], [0], [0])  # compiles, or loads what was compiled: better now than at a reply
        # As its threads begin, numba gives OpenMP's other users all cores, whatever they had.
        torch.set_num_threads(threads)

    def make_cache(self, slots: int) -> Tensor:
        width = self.tokens.shape[1] // self.heads
        shape = (len(self.blocks), slots, self.heads, self.window, width)
        return torch.from_numpy(_zeros(shape, np.uint16)).view(torch.bfloat16)

    def extend(self, ids: Sequence[int], start: int, slot: int = 0) -> Tensor:
        if len(ids) > FEW:
            return super().extend(ids, start, slot)
        positions = range(start, start + len(ids))
        return self.forward(ids, positions, [slot] * len(ids), [len(ids) - 1])[0]

    def step(self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int]) -> Tensor:
        if len(tokens) > FEW:
            return self._products(tokens, positions, slots)
        return self.forward(tokens, positions, slots, range(len(tokens)))

    @torch.inference_mode()
    def _products(
        self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int]
    ) -> Tensor:
        """Do what `step` does by matrix products, and attention by the kernel: many at once."""
        x = self._embed(torch.tensor(tokens), torch.tensor(positions))
        where, at = np.asarray(slots), np.asarray(positions)
        scratch = np.empty((len(tokens) * self.heads, max(positions) + 1), np.float32)
        mixed = torch.empty_like(x)
        for block, keys, values in zip(self.blocks, *self._cache(), strict=True):
            qkv = block.project(x).float().numpy()
            self._call(kernels.attend, qkv, keys, values, where, at, scratch, mixed.numpy())
            x = block.finish(x, mixed)
        return super().scores(x)

    def _cache(self) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """Return keys and values as the kernels read them."""
        return self.keys.view(torch.uint16).numpy(), self.values.view(torch.uint16).numpy()

    def along(self, ids: Sequence[int], slot: int = 0) -> Tensor:
        parts = [
            self.forward(
                part, range(start, start + len(part)), [slot] * len(part), range(len(part))
            )
            for start in range(0, len(ids), FEW)
            for part in [ids[start : start + FEW]]
        ]
        return torch.cat(parts)

    def forward(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        slots: Sequence[int],
        wanted: Sequence[int],
    ) -> Tensor:
        """Run tokens with int8 weights and return the scores after the wanted ones.

        Returns:
            Shape (wanted, vocab), float32.
        """
        ids, at = torch.tensor(tokens), torch.tensor(positions)
        x: Any = self._embed(ids, at).numpy()
        found = np.empty((len(wanted), len(self.tokens)), np.float32)
        self._call(
            kernels.forward,
            self._weights,
            *self._cache(),
            x,
            np.asarray(slots),
            np.asarray(positions),
            np.asarray(wanted),
            found,
        )
        return torch.from_numpy(found)

    def scores(self, x: Tensor) -> Tensor:
        found = np.empty((len(x), len(self.tokens)), np.float32)
        self._call(kernels.head, self._weights, x.numpy(), found)
        return torch.from_numpy(found)

    def _call(self, kernel: Callable[..., None], *given: Any) -> None:
        """Run a kernel on the decoder's threads."""
        # The number is the calling thread's own, and a chat's threads come and go.
        numba.set_num_threads(self._threads)
        with _shared_threads():
            kernel(*given)


def _shared_threads() -> AbstractContextManager[Any]:
    """Return what a kernel has to hold: with numba's own threads a lock, with others nothing.

    Where numba finds neither TBB nor OpenMP, it ends the process as two threads call it at once.
    The layer is known once the number of threads has been set.
    """
    layer: str = numba.threading_layer()  # pyright: ignore[reportPrivateImportUsage]
    return _ONE_AT_A_TIME if layer == "workqueue" else nullcontext()


def _norms(pairs: Sequence[tuple[Tensor, Tensor]]) -> Norm:
    gains, biases = zip(*pairs, strict=True)
    return Norm(torch.stack(gains).numpy(), torch.stack(biases).numpy())


def _matrix(layers: Sequence[Linear]) -> Matrix:
    """Return a linear map of all layers in int8, each row rounded to its own scale."""
    inputs, outputs = layers[0].weight.shape
    weight = _zeros((len(layers), outputs, inputs), np.int8)
    scale = np.zeros((len(layers), outputs), np.float32)
    for index, linear in enumerate(layers):
        rows = linear.weight.T.float()
        unit = (rows.abs().amax(1) / WEIGHT_TOP).clamp(min=torch.finfo(torch.float32).tiny)
        scale[index] = unit.numpy()
        torch.from_numpy(weight[index]).copy_((rows / unit[:, None]).round())
    bias = torch.stack([linear.bias.float() for linear in layers]).numpy()
    return Matrix(weight, scale, bias)


def _zeros(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return zeros in memory that Linux maps by huge pages: a quarter faster to read through."""
    size = prod(shape)
    length = max(size * np.dtype(dtype).itemsize, 1)
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(shape, dtype)
    # Shared memory, which mmap takes if it is not told, has small pages whatever is advised.
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype, size).reshape(shape)

"""GPT-2's forward pass for a few tokens on a CPU, with int8 weights; numba compiles it once.

Decoding is bound by memory: every weight is read once per token. So a weight is one byte, with one
scale per row of its matrix, and an activation is two bytes, with one scale per token. A product of
the two is an integer dot product (vpmaddwd on x86, smlal on ARM), which leaves the memory as what
takes the time. Two bytes keep the outliers of GPT-2's activations and the small values beside them.
"""

# numba has no types for what it compiles.
# pyright: reportUntypedFunctionDecorator=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false, reportCallIssue=false

from typing import NamedTuple

import numpy as np
from numba import float32, int32, njit, prange
from numpy.typing import NDArray

WEIGHT_TOP = 127
"""Largest magnitude of a quantised weight."""
ACTIVATION_TOP = 32_767
"""Largest magnitude of a quantised activation."""
ACTIVATION_SUM = 16_500_000
"""Largest sum of a token's magnitudes: times `WEIGHT_TOP` it stays within int32."""


class Matrix(NamedTuple):
    """A linear map in all layers: `weight * scale` and a bias."""

    weight: NDArray[np.int8]
    """Shape (layers, out, in)."""
    scale: NDArray[np.float32]
    """Shape (layers, out)."""
    bias: NDArray[np.float32]
    """Shape (layers, out)."""


class Norm(NamedTuple):
    """A layer norm in all layers; shapes (layers, width)."""

    gain: NDArray[np.float32]
    bias: NDArray[np.float32]


class Weights(NamedTuple):
    """GPT-2 as `forward` reads it. `head` and `norm_out` have one layer."""

    norm_1: Norm
    qkv: Matrix
    out: Matrix
    norm_2: Norm
    up: Matrix
    down: Matrix
    norm_out: Norm
    head: Matrix
    eps: float


@njit(error_model="numpy", fastmath=True, cache=True)
def exp(x):
    """Return e^x in float32, within 2e-7 of it; unlike libm's it becomes vector instructions."""
    t = min(max(x, float32(-87)), float32(88)) * float32(1.4426950408889634)
    whole = np.floor(t + float32(0.5))
    f = t - whole
    y = float32(1.5403530393381608e-4)
    y = y * f + float32(1.3333558146428443e-3)
    y = y * f + float32(9.618129107628477e-3)
    y = y * f + float32(5.550410866482158e-2)
    y = y * f + float32(0.24022650695910072)
    y = y * f + float32(0.6931471805599453)
    y = y * f + float32(1)
    bits = np.int32((int32(whole) + int32(127)) << int32(23))
    return y * np.int32(bits).view(np.float32)


@njit(error_model="numpy", fastmath=True, cache=True)
def activate(x):
    """Apply GELU in its tanh form, as GPT-2 has it (Hendrycks and Gimpel, arXiv:1606.08415)."""
    for index in range(len(x)):
        value = x[index]
        inner = float32(0.7978845608028654) * (value + float32(0.044715) * value * value * value)
        x[index] = value / (float32(1) + exp(float32(-2) * inner))


@njit(error_model="numpy", fastmath=True, cache=True)
def quantize(x, quantized):
    """Write a token's activations as int16, and return what one unit of them is."""
    top, total = float32(0), float32(0)
    for value in x:
        top = max(top, abs(value))
        total += abs(value)
    if top == 0:
        quantized[:] = 0
        return float32(0)
    factor = min(float32(ACTIVATION_TOP) / top, float32(ACTIVATION_SUM) / total)
    for index in range(len(x)):
        quantized[index] = np.int16(np.floor(x[index] * factor + float32(0.5)))
    return float32(1) / factor


@njit(error_model="numpy", fastmath=True, cache=True)
def normalize(x, gain, bias, eps, quantized, unit):
    """Write the layer norm of each token as int16, and what one unit of it is.

    Args:
        x: Shape (tokens, width), as is quantized.
        unit: Shape (tokens,).
    """
    normed = np.empty(x.shape[1], np.float32)
    for token in range(len(x)):
        mean, square = float32(0), float32(0)
        for value in x[token]:
            mean += value
        mean /= float32(len(normed))
        for value in x[token]:
            square += (value - mean) * (value - mean)
        factor = float32(1) / np.sqrt(square / float32(len(normed)) + float32(eps))
        for index in range(len(normed)):
            normed[index] = (x[token, index] - mean) * factor * gain[index] + bias[index]
        unit[token] = quantize(normed, quantized[token])


@njit(error_model="numpy", fastmath=True, parallel=True, nogil=True, cache=True)
def product(weight, scale, bias, x, unit, add, out):
    """Write `weight @ x` of each token: the only place where weights are read.

    Args:
        x: Activations as int16, shape (tokens, in); `unit` is their scale, shape (tokens,).
        add: Whether to add it to what is there.
        out: Shape (tokens, out).
    """
    for row in prange(weight.shape[0]):
        line = weight[row]
        for token in range(x.shape[0]):
            values = x[token]
            total = int32(0)
            for index in range(len(line)):
                # numba makes int64 of int32 times int32, which no vector instruction multiplies.
                total = int32(total + int32(int32(line[index]) * int32(values[index])))
            y = float32(total) * scale[row] * unit[token] + bias[row]
            out[token, row] = out[token, row] + y if add else y


@njit(error_model="numpy", fastmath=True, cache=True)
def widen(x):
    """Return the float32 whose upper half a bfloat16 is."""
    bits = np.uint32(x) << np.uint32(16)
    return np.uint32(bits).view(np.float32)


@njit(error_model="numpy", cache=True)
def store(row, kept):
    """Write float32 as bfloat16, rounded to nearest even."""
    bits = row.view(np.uint32)
    for index in range(len(kept)):
        bit = bits[index]
        odd = (bit >> np.uint32(16)) & np.uint32(1)
        kept[index] = np.uint16((bit + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@njit(error_model="numpy", fastmath=True, parallel=True, nogil=True, cache=True)
def attend(qkv, keys, values, slots, positions, scores, out):
    """Write the attention of each token and head over its slot up to the token itself.

    Args:
        qkv: Shape (tokens, 3 * width).
        keys: bfloat16 as uint16, shape (slots, heads, positions, head width), as are values.
        scores: Scratch, shape (tokens * heads, positions).
        out: Shape (tokens, width).
    """
    tokens, heads, size = qkv.shape[0], keys.shape[1], keys.shape[3]
    width = heads * size
    for token in range(tokens):
        for head in range(heads):
            at = head * size
            kept = keys[slots[token], head, positions[token]]
            store(qkv[token, width + at : width + at + size], kept)
            kept = values[slots[token], head, positions[token]]
            store(qkv[token, 2 * width + at : 2 * width + at + size], kept)
    scaling = float32(1) / np.sqrt(float32(size))
    for item in prange(tokens * heads):
        token, head = item // heads, item % heads
        length = positions[token] + 1
        query = qkv[token, head * size : (head + 1) * size]
        score = scores[item]
        key, value = keys[slots[token], head], values[slots[token], head]
        top = float32(-3e38)
        for position in range(length):
            line = key[position]
            total = float32(0)
            for index in range(size):
                total += query[index] * widen(line[index])
            score[position] = total * scaling
            top = max(top, score[position])
        total = float32(0)
        for position in range(length):
            score[position] = exp(score[position] - top)
            total += score[position]
        mixed = out[token, head * size : (head + 1) * size]
        mixed[:] = 0
        for position in range(length):
            line, share = value[position], score[position] / total
            for index in range(size):
                mixed[index] += share * widen(line[index])


@njit(error_model="numpy", fastmath=True, nogil=True, cache=True)
def head(weights, x, logits):
    """Write the scores of hidden states of shape (tokens, width)."""
    norm, m = weights.norm_out, weights.head
    short, unit = np.empty(x.shape, np.int16), np.empty(len(x), np.float32)
    normalize(x, norm.gain[0], norm.bias[0], weights.eps, short, unit)
    product(m.weight[0], m.scale[0], m.bias[0], short, unit, False, logits)


@njit(error_model="numpy", fastmath=True, nogil=True, cache=True)
def forward(weights, keys, values, x, slots, positions, wanted, logits):
    """Run tokens through all layers: keep their keys and values, and write the scores of some.

    Tokens of one slot stand in the order of their positions, and see each other as in one text.

    Args:
        keys: bfloat16 as uint16, shape (layers, slots, heads, positions, head width), as are
            values.
        x: Embeddings, shape (tokens, width); overwritten.
        slots: Shape (tokens,), as are positions.
        wanted: The tokens whose scores are wanted, shape (wanted,).
        logits: Shape (wanted, vocab).
    """
    tokens, width = x.shape
    heads, length = keys.shape[2], keys.shape[3]
    attended = np.empty((tokens, width), np.float32)
    qkv = np.empty((tokens, 3 * width), np.float32)
    inner = np.empty((tokens, weights.up.weight.shape[1]), np.float32)
    short, long = np.empty((tokens, width), np.int16), np.empty(inner.shape, np.int16)
    unit = np.empty(tokens, np.float32)
    scores = np.empty((tokens * heads, length), np.float32)
    for layer in range(keys.shape[0]):
        norm, m = weights.norm_1, weights.qkv
        normalize(x, norm.gain[layer], norm.bias[layer], weights.eps, short, unit)
        product(m.weight[layer], m.scale[layer], m.bias[layer], short, unit, False, qkv)
        attend(qkv, keys[layer], values[layer], slots, positions, scores, attended)
        m = weights.out
        for token in range(tokens):
            unit[token] = quantize(attended[token], short[token])
        product(m.weight[layer], m.scale[layer], m.bias[layer], short, unit, True, x)
        norm, m = weights.norm_2, weights.up
        normalize(x, norm.gain[layer], norm.bias[layer], weights.eps, short, unit)
        product(m.weight[layer], m.scale[layer], m.bias[layer], short, unit, False, inner)
        m = weights.down
        for token in range(tokens):
            activate(inner[token])
            unit[token] = quantize(inner[token], long[token])
        product(m.weight[layer], m.scale[layer], m.bias[layer], long, unit, True, x)
    head(weights, x[wanted], logits)

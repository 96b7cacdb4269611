"""Run GPT-2's forward pass for a few tokens on a CPU, with int8 weights, compiled by numba.

Decoding is limited by memory bandwidth, because every weight is read once per token. So a weight is
one byte, with one scale per row of its matrix. An activation is two bytes, with one scale per
token: GPT-2's activations have outliers, next to which one byte would round the small values to 0.
The product of the two is an integer dot product, for which CPUs have an instruction (vpmaddwd on
x86, smlal on ARM). For one token, all 49 products of GPT-2 124M take 2.2 ms this way, about as long
as two cores take to read the weights; with float32 activations they take 4.4 ms (docs/log.md,
2026-11-25).

The tokens of a call may belong to different texts, each of which has a slot in the cache of keys
and values.
"""

# numba compiles for the types of the arguments, so the functions have no annotations.
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
"""Largest sum of a token's quantised magnitudes. Times `WEIGHT_TOP` it is 2.1e9, within int32."""


class Matrix(NamedTuple):
    """A linear map in all layers: y = (weight * scale) @ x + bias."""

    weight: NDArray[np.int8]
    """Shape (layers, out, in)."""
    scale: NDArray[np.float32]
    """Shape (layers, out)."""
    bias: NDArray[np.float32]
    """Shape (layers, out)."""


class Norm(NamedTuple):
    """A layer norm in all layers. Both shapes are (layers, width)."""

    gain: NDArray[np.float32]
    bias: NDArray[np.float32]


class Weights(NamedTuple):
    """The weights of GPT-2. `norm_out` and `head` have one layer, the others all."""

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
    """Return e^x in float32, within 2e-7 of it.

    LLVM compiles it to vector instructions, which it does not do with a call of libm.
    """
    # e^x = 2^t with t = x / ln 2. Split t into an integer and a rest f within ±0.5: the integer
    # becomes the exponent bits of the result, and a polynomial of degree 6 gives 2^f. x is clamped
    # to where the result is a normal float32.
    t = min(max(x, float32(-87)), float32(88)) * float32(1.4426950408889634)
    integer = np.floor(t + float32(0.5))
    f = t - integer
    # The coefficients are ln(2)^k / k!, highest power first.
    y = float32(1.5403530393381608e-4)
    y = y * f + float32(1.3333558146428443e-3)
    y = y * f + float32(9.618129107628477e-3)
    y = y * f + float32(5.550410866482158e-2)
    y = y * f + float32(0.24022650695910072)
    y = y * f + float32(0.6931471805599453)
    y = y * f + float32(1)
    # A float32 has 23 bits of mantissa, and stores its exponent plus 127 above them.
    bits = np.int32((int32(integer) + int32(127)) << int32(23))
    return y * np.int32(bits).view(np.float32)


@njit(error_model="numpy", fastmath=True, cache=True)
def activate(x):
    """Apply GELU in place, in the tanh form that GPT-2 uses.

        0.5 · x · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))

    Source:
        Hendrycks and Gimpel (2016), Gaussian Error Linear Units, arXiv:1606.08415.
    """
    # 0.5 · (1 + tanh(z)) = 1 / (1 + e^-2z), which needs one exponential and no tanh.
    for index in range(len(x)):
        value = x[index]
        inner = float32(0.7978845608028654) * (value + float32(0.044715) * value * value * value)
        x[index] = value / (float32(1) + exp(float32(-2) * inner))


@njit(error_model="numpy", fastmath=True, cache=True)
def quantize(x, quantized):
    """Write a token's activations as int16, and return the value of one unit.

    Args:
        x: Shape (width,), as is quantized.
    """
    top, total = float32(0), float32(0)
    for value in x:
        top = max(top, abs(value))
        total += abs(value)
    if top == 0:
        quantized[:] = 0
        return float32(0)
    # The largest magnitude becomes 32,767, unless the dot product with a row of weights could then
    # overflow int32, which takes a sum of magnitudes above 503 times the largest.
    factor = min(float32(ACTIVATION_TOP) / top, float32(ACTIVATION_SUM) / total)
    for index in range(len(x)):
        quantized[index] = np.int16(np.floor(x[index] * factor + float32(0.5)))
    return float32(1) / factor


@njit(error_model="numpy", fastmath=True, cache=True)
def normalize(x, gain, bias, eps, quantized, unit):
    """Write the layer norm of each token as int16, and the value of one unit.

    Args:
        x: Shape (tokens, width), as is quantized.
        unit: Scale of each token's activations, shape (tokens,).
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
    """Write weight @ x + bias for each token. Only here are weights read.

    Args:
        weight: int8, shape (out, in).
        scale: Scale of each row of weights, shape (out,), as is bias.
        x: Activations as int16, shape (tokens, in).
        unit: Scale of each token's activations, shape (tokens,).
        add: Whether to add to `out`, as a residual connection does, or to overwrite it.
        out: Shape (tokens, out).
    """
    # Threads share the rows, so each weight is read from memory once: for the second token a row
    # of at most 3 KiB comes from the cache. Two alternatives were slower: four tokens at a time in
    # the inner loop, and weights widened to int16 beforehand.
    for row in prange(weight.shape[0]):
        line = weight[row]
        for token in range(x.shape[0]):
            values = x[token]
            total = int32(0)
            for index in range(len(line)):
                # In numba, int32 times int32 is int64, for which there is no vector instruction.
                # Cast back to int32, LLVM finds vpmaddwd: 2.2 ms for all products, not 6.0.
                total = int32(total + int32(int32(line[index]) * int32(values[index])))
            y = float32(total) * scale[row] * unit[token] + bias[row]
            out[token, row] = out[token, row] + y if add else y


@njit(error_model="numpy", fastmath=True, cache=True)
def widen(x):
    """Return a bfloat16 as float32: its bits are the upper half of a float32's."""
    bits = np.uint32(x) << np.uint32(16)
    return np.uint32(bits).view(np.float32)


@njit(error_model="numpy", cache=True)
def store(row, target):
    """Write float32 as bfloat16, rounded to nearest even.

    Args:
        row: float32, shape (head width,).
        target: uint16, of the same shape.
    """
    bits = row.view(np.uint32)
    for index in range(len(target)):
        value = bits[index]
        # Adding just under half of the last place, plus 1 if that place is odd, carries into it
        # exactly when the lower half is above one half, or equal to it and the place is odd.
        odd = (value >> np.uint32(16)) & np.uint32(1)
        target[index] = np.uint16((value + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@njit(error_model="numpy", fastmath=True, parallel=True, nogil=True, cache=True)
def attend(qkv, keys, values, slots, positions, scores, out):
    """Store each token's key and value, and write its attention over its slot up to itself.

    Keys and values are bfloat16: in float32 a full window would be 75 MB to read per token, more
    than half the size of the weights. PyTorch's SDPA takes 0.38 ms a layer for one query of 1,024
    keys in float32, and 1.5 ms in bfloat16 (docs/log.md, 2026-11-25).

    Args:
        qkv: Queries, keys and values side by side, shape (tokens, 3 * width).
        keys: bfloat16 as uint16, shape (slots, heads, positions, head width), as are values.
        slots: Shape (tokens,), as are positions.
        scores: Scratch memory, shape (tokens * heads, positions).
        out: Shape (tokens, width).
    """
    tokens, heads, size = qkv.shape[0], keys.shape[1], keys.shape[3]
    width = heads * size
    # All keys and values are stored before any is read: tokens of one text see each other.
    for token in range(tokens):
        for head in range(heads):
            at = head * size
            key = keys[slots[token], head, positions[token]]
            store(qkv[token, width + at : width + at + size], key)
            value = values[slots[token], head, positions[token]]
            store(qkv[token, 2 * width + at : 2 * width + at + size], value)
    scaling = float32(1) / np.sqrt(float32(size))
    # Threads share the pairs of token and head, which need nothing from each other.
    for item in prange(tokens * heads):
        token, head = item // heads, item % heads
        length = positions[token] + 1
        query = qkv[token, head * size : (head + 1) * size]
        score = scores[item]
        slot_keys, slot_values = keys[slots[token], head], values[slots[token], head]
        top = float32(-3e38)  # about the lowest float32
        for position in range(length):
            line = slot_keys[position]
            total = float32(0)
            for index in range(size):
                total += query[index] * widen(line[index])
            score[position] = total * scaling
            top = max(top, score[position])
        # Softmax. The highest score is subtracted so that no exponential overflows.
        total = float32(0)
        for position in range(length):
            score[position] = exp(score[position] - top)
            total += score[position]
        mixed = out[token, head * size : (head + 1) * size]
        mixed[:] = 0
        for position in range(length):
            line, share = slot_values[position], score[position] / total
            for index in range(size):
                mixed[index] += share * widen(line[index])


@njit(error_model="numpy", fastmath=True, nogil=True, cache=True)
def head(weights, x, logits):
    """Write the scores of all tokens of the vocabulary after some hidden states.

    Args:
        x: Shape (tokens, width).
        logits: Shape (tokens, vocab).
    """
    norm, m = weights.norm_out, weights.head
    short, unit = np.empty(x.shape, np.int16), np.empty(len(x), np.float32)
    normalize(x, norm.gain[0], norm.bias[0], weights.eps, short, unit)
    product(m.weight[0], m.scale[0], m.bias[0], short, unit, False, logits)


@njit(error_model="numpy", fastmath=True, nogil=True, cache=True)
def forward(weights, keys, values, x, slots, positions, scored, logits):
    """Run tokens through all layers: store their keys and values, and write the scores of some.

    Tokens of one slot must be in the order of their positions; they see each other as in one text.

    Args:
        keys: bfloat16 as uint16, shape (layers, slots, heads, positions, head width), as are
            values.
        x: Embeddings, shape (tokens, width); overwritten with the hidden states.
        slots: Shape (tokens,), as are positions.
        scored: Indices of the tokens whose scores to write, shape (scored,).
        logits: Shape (scored, vocab).
    """
    tokens, width = x.shape
    heads, length = keys.shape[2], keys.shape[3]
    attended = np.empty((tokens, width), np.float32)
    qkv = np.empty((tokens, 3 * width), np.float32)
    inner = np.empty((tokens, weights.up.weight.shape[1]), np.float32)
    short, long = np.empty((tokens, width), np.int16), np.empty(inner.shape, np.int16)
    unit = np.empty(tokens, np.float32)
    scores = np.empty((tokens * heads, length), np.float32)
    # Each product is one parallel region and reads activations quantised just before it. `x` is
    # the residual stream in float32, to which attention and MLP add (`add` is True).
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
    head(weights, x[scored], logits)

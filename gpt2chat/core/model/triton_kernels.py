"""Run parts of the model on a GPU as Triton kernels. The plain code is their reference.

Five kernels compute a layer of a decoding step for few texts, where PyTorch needs about twenty:
norm and product, attention, product and sum, norm and product, product and sum. Two more compute
the log-probabilities of a training step's targets, and the gradient. Importing this module imports
Triton.
"""

# Triton reads the kernels' source, and a launch takes more arguments than the function has: neither
# has types that pyright knows. It may be missing, too, where PyTorch is built for CPUs.
# pyright: reportMissingImports=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false, reportUntypedFunctionDecorator=false
# pyright: reportUnknownLambdaType=false, reportAttributeAccessIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

ROWS, TILE, WARPS = 8, 256, 4
"""Outputs that one program computes, inputs that it reads at a time, and its warps. A warp reads 16
bytes per thread, so 256 numbers of bf16 in a row. Not tuned: no GPU has run this yet."""
CHUNK = 128
"""Positions that one program of the attention reads."""
VOCAB_TILE = 4096
"""Logits that one program of the head reads at a time."""


@triton.jit
def _norm_product(
    x, gain, shift, weight, bias, out, cache, slots, positions,
    outputs, eps, kv_stride, slot_stride, head_stride, head_width,
    INPUTS: tl.constexpr, WHOLE: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
    KIND: tl.constexpr,
):  # fmt: skip
    """Compute norm(x) @ weight.T + bias for one row of x and ROWS outputs.

    KIND "gelu" applies GELU, "qkv" stores keys and values in the cache, "head" adds no bias.
    """
    row = tl.program_id(1)
    x += row * INPUTS
    every = tl.arange(0, WHOLE)
    whole = tl.load(x + every, mask=every < INPUTS, other=0.0)
    mean = tl.sum(whole) / INPUTS
    centred = tl.where(every < INPUTS, whole - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred) / INPUTS + eps)

    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    sums = tl.zeros((ROWS, TILE), tl.float32)
    for first in range(0, INPUTS, TILE):
        index = first + tl.arange(0, TILE)
        inside = index < INPUTS
        part = (tl.load(x + index, mask=inside, other=0.0) - mean) * scale
        part = part * tl.load(gain + index, mask=inside, other=0.0)
        part = part + tl.load(shift + index, mask=inside, other=0.0)
        there = (at < outputs)[:, None] & inside[None, :]
        place = at[:, None] * INPUTS + index[None, :]
        rows = tl.load(weight + place, mask=there, other=0.0)
        # The product reads its input in the type of the weights, as the plain code does.
        sums += part.to(rows.dtype).to(tl.float32)[None, :] * rows.to(tl.float32)
    result = tl.sum(sums, 1)
    if KIND != "head":
        result += tl.load(bias + at, mask=at < outputs, other=0.0).to(tl.float32)
    if KIND == "gelu":
        # 0.5 (1 + tanh(u)) is the logistic function of 2u.
        result *= tl.sigmoid(1.5957691216057308 * (result + 0.044715 * result * result * result))
    if KIND == "qkv":
        width = outputs // 3
        tl.store(out + row * width + at, result.to(out.dtype.element_ty), mask=at < width)
        slot, position = tl.load(slots + row), tl.load(positions + row)
        inner = at % width
        place = (at // width - 1) * kv_stride + slot * slot_stride
        place += (inner // head_width) * head_stride + position * head_width + inner % head_width
        mine = (at >= width) & (at < outputs)
        tl.store(cache + place, result.to(cache.dtype.element_ty), mask=mine)
    else:
        place = row * outputs + at
        tl.store(out + place, result.to(out.dtype.element_ty), mask=at < outputs)


@triton.jit
def _attend(
    query, cache, slots, positions, parts, tops, totals,
    heads, head_width, kv_stride, slot_stride, head_stride, scale,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Attend to CHUNK positions of one head: the weighted sum of values, without its divisor.

    `tops` and `totals` get the highest score and the sum of weights, from which `_product_sum`
    combines the chunks.
    """
    row, head, chunk = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    chunks = tl.num_programs(2)
    slot, position = tl.load(slots + row), tl.load(positions + row)
    d = tl.arange(0, WIDTH)
    at = chunk * CHUNK + tl.arange(0, CHUNK)
    seen = at <= position
    q = tl.load(query + (row * heads + head) * head_width + d, mask=d < head_width, other=0.0)
    place = slot * slot_stride + head * head_stride + at[:, None] * head_width + d[None, :]
    there = seen[:, None] & (d < head_width)[None, :]
    keys = tl.load(cache + place, mask=there, other=0.0).to(tl.float32)
    scores = tl.sum(keys * q.to(tl.float32)[None, :], 1) * scale
    scores = tl.where(seen, scores, -float("inf"))
    top = tl.max(scores)
    # A chunk that is all in the future has no highest score.
    weights = tl.where(seen, tl.exp(scores - tl.where(top == -float("inf"), 0.0, top)), 0.0)
    values = tl.load(cache + kv_stride + place, mask=there, other=0.0).to(tl.float32)
    index = (row * heads + head) * chunks + chunk
    sums = tl.sum(weights[:, None] * values, 0)
    tl.store(parts + index * head_width + d, sums, mask=d < head_width)
    tl.store(tops + index, top)
    tl.store(totals + index, tl.sum(weights))


@triton.jit
def _product_sum(
    x, tops, totals, weight, bias, out, outputs, heads, head_width, chunks,
    INPUTS: tl.constexpr, CHUNKS: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Add x @ weight.T + bias to `out`, for one row of x and ROWS outputs.

    With CHUNKS, x is what `_attend` left, and is combined first.
    """
    row = tl.program_id(1)
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    sums = tl.zeros((ROWS, TILE), tl.float32)
    for first in range(0, INPUTS, TILE):
        index = first + tl.arange(0, TILE)
        inside = index < INPUTS
        if CHUNKS:
            c = tl.arange(0, CHUNKS)
            place = (row * heads + index // head_width)[:, None] * chunks + c[None, :]
            there = inside[:, None] & (c < chunks)[None, :]
            top = tl.load(tops + place, mask=there, other=-float("inf"))
            highest = tl.where(inside, tl.max(top, 1), 0.0)
            shares = tl.exp(top - highest[:, None])
            total = tl.sum(shares * tl.load(totals + place, mask=there, other=0.0), 1)
            place = place * head_width + (index % head_width)[:, None]
            values = tl.load(x + place, mask=there, other=0.0)
            part = tl.sum(shares * values, 1) / tl.where(inside, total, 1.0)
        else:
            part = tl.load(x + row * INPUTS + index, mask=inside, other=0.0).to(tl.float32)
        there = (at < outputs)[:, None] & inside[None, :]
        rows = tl.load(weight + at[:, None] * INPUTS + index[None, :], mask=there, other=0.0)
        sums += part.to(rows.dtype).to(tl.float32)[None, :] * rows.to(tl.float32)
    result = tl.sum(sums, 1) + tl.load(bias + at, mask=at < outputs, other=0.0).to(tl.float32)
    place = out + row * outputs + at
    tl.store(place, tl.load(place, mask=at < outputs, other=0.0) + result, mask=at < outputs)


@triton.jit
def _target_logps(logits, targets, logps, lses, VOCAB: tl.constexpr, TILE: tl.constexpr):
    """Compute log-softmax at the target of one row, in one pass over its logits."""
    row = tl.program_id(0)
    logits += row.to(tl.int64) * VOCAB
    tops = tl.full((TILE,), -float("inf"), tl.float32)
    sums = tl.zeros((TILE,), tl.float32)
    for first in range(0, VOCAB, TILE):
        index = first + tl.arange(0, TILE)
        part = tl.load(logits + index, mask=index < VOCAB, other=-float("inf")).to(tl.float32)
        # Each lane has a running maximum of its own, so that the loop has no reduction.
        higher = tl.maximum(tops, part)
        base = tl.where(higher == -float("inf"), 0.0, higher)
        sums = sums * tl.exp(tops - base) + tl.exp(part - base)
        tops = higher
    top = tl.max(tops)
    lse = top + tl.log(tl.sum(sums * tl.exp(tops - top)))
    target = tl.load(targets + row)
    tl.store(lses + row, lse)
    tl.store(logps + row, tl.load(logits + target).to(tl.float32) - lse)


@triton.jit
def _logits_gradient(logits, targets, lses, gradient, VOCAB: tl.constexpr, TILE: tl.constexpr):
    """Overwrite a row of logits by its gradient, (onehot - softmax) times that of the result."""
    row = tl.program_id(0)
    logits += row.to(tl.int64) * VOCAB
    lse, target, share = tl.load(lses + row), tl.load(targets + row), tl.load(gradient + row)
    for first in range(0, VOCAB, TILE):
        index = first + tl.arange(0, TILE)
        part = tl.load(logits + index, mask=index < VOCAB, other=-float("inf")).to(tl.float32)
        value = share * (tl.where(index == target, 1.0, 0.0) - tl.exp(part - lse))
        tl.store(logits + index, value.to(logits.dtype.element_ty), mask=index < VOCAB)


def norm_product(
    x: Tensor,
    norm: tuple[Tensor, Tensor],
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    *,
    gelu: bool = False,
) -> Tensor:
    """Return norm(x) @ weight.T + bias, in the type of the weight, or in float32 without a bias.

    Args:
        x: Shape (texts, inputs), float32.
        norm: Gain and bias of the layer norm, shape (inputs,), float32.
        weight: Shape (outputs, inputs).
        gelu: Apply GELU in the tanh form.
    """
    outputs, inputs = weight.shape
    dtype = torch.float32 if bias is None else weight.dtype
    out = torch.empty(len(x), outputs, dtype=dtype, device=x.device)
    kind = "head" if bias is None else "gelu" if gelu else "plain"
    _norm_product[(triton.cdiv(outputs, ROWS), len(x))](
        x, *norm, weight, bias, out, None, None, None, outputs, eps, 0, 0, 0, 1,
        INPUTS=inputs, WHOLE=triton.next_power_of_2(inputs), ROWS=ROWS, TILE=TILE, KIND=kind,
        num_warps=WARPS,
    )  # fmt: skip
    return out


def norm_qkv(
    x: Tensor,
    norm: tuple[Tensor, Tensor],
    weight: Tensor,
    bias: Tensor,
    eps: float,
    cache: Tensor,
    slots: Tensor,
    positions: Tensor,
) -> Tensor:
    """Return the queries of norm(x), shape (texts, width), and store its keys and values.

    Args:
        weight: Of queries, keys and values, shape (3 * width, width).
        cache: A layer's keys and values, shape (2, all slots, heads, positions, head width).
        slots: Shape (texts,), as are positions.
    """
    queries = torch.empty(x.shape, dtype=weight.dtype, device=x.device)
    outputs, inputs = weight.shape
    _norm_product[(triton.cdiv(outputs, ROWS), len(x))](
        x, *norm, weight, bias, queries, cache, slots, positions, outputs, eps,
        *cache.stride()[:3], cache.shape[-1],
        INPUTS=inputs, WHOLE=triton.next_power_of_2(inputs), ROWS=ROWS, TILE=TILE, KIND="qkv",
        num_warps=WARPS,
    )  # fmt: skip
    return queries


def attend_and_add(
    x: Tensor,
    queries: Tensor,
    cache: Tensor,
    slots: Tensor,
    positions: Tensor,
    length: int,
    weight: Tensor,
    bias: Tensor,
) -> None:
    """Add attention @ weight.T + bias to x in place, by two kernels.

    Args:
        x: Shape (texts, width), float32.
        queries: What `norm_qkv` returned; the other arguments as there.
        length: Number of positions to read; above all of `positions`.
        weight: Shape (width, width).
    """
    texts, heads, head_width = len(x), cache.shape[2], cache.shape[4]
    chunks = triton.cdiv(length, CHUNK)
    parts = x.new_empty(texts, heads, chunks, head_width)
    tops, totals = x.new_empty(2, texts, heads, chunks)
    _attend[(texts, heads, chunks)](
        queries, cache, slots, positions, parts, tops, totals,
        heads, head_width, *cache.stride()[:3], head_width**-0.5,
        WIDTH=triton.next_power_of_2(head_width), CHUNK=CHUNK, num_warps=WARPS,
    )  # fmt: skip
    outputs, inputs = weight.shape
    _product_sum[(triton.cdiv(outputs, ROWS), texts)](
        parts, tops, totals, weight, bias, x, outputs, heads, head_width, chunks,
        INPUTS=inputs, CHUNKS=triton.next_power_of_2(chunks), ROWS=ROWS, TILE=TILE, num_warps=WARPS,
    )  # fmt: skip


def product_sum(x: Tensor, inner: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Add inner @ weight.T + bias to x in place.

    Args:
        x: Shape (texts, outputs), float32.
        inner: Shape (texts, inputs).
        weight: Shape (outputs, inputs).
    """
    outputs, inputs = weight.shape
    _product_sum[(triton.cdiv(outputs, ROWS), len(x))](
        inner, None, None, weight, bias, x, outputs, 0, 1, 0,
        INPUTS=inputs, CHUNKS=0, ROWS=ROWS, TILE=TILE, num_warps=WARPS,
    )  # fmt: skip


def target_logps(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-softmax of each row at its target, and each row's log-sum-exp.

    Args:
        logits: Shape (tokens, vocab), contiguous.
        targets: Shape (tokens,).

    Returns:
        Two of shape (tokens,), float32.
    """
    logps, lses = torch.empty(2, len(logits), device=logits.device)
    if len(logits):
        _target_logps[(len(logits),)](
            logits, targets, logps, lses, VOCAB=logits.shape[1], TILE=VOCAB_TILE, num_warps=8
        )
    return logps, lses


def logits_gradient_(logits: Tensor, targets: Tensor, lses: Tensor, gradient: Tensor) -> Tensor:
    """Overwrite logits by their gradient, given that of what `target_logps` returned."""
    if len(logits):
        _logits_gradient[(len(logits),)](
            logits, targets, lses, gradient.contiguous(),
            VOCAB=logits.shape[1], TILE=VOCAB_TILE, num_warps=8,
        )  # fmt: skip
    return logits


@torch.no_grad()
def check(device: torch.device) -> None:
    """Compare the kernels with PyTorch on a small layer and a small head.

    Raises:
        RuntimeError: The results differ by more than rounding.
        Exception: Triton cannot compile the kernels for the device.
    """
    # The first use may be in a training step, where PyTorch's products would be in bf16.
    with torch.autocast(device.type, enabled=False):
        random = torch.Generator(device).manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, device=device, generator=random)

        heads, head_width, length = 2, 32, CHUNK + 9
        width = heads * head_width
        x, gain, shift = drawn(2, width), drawn(width), drawn(width)
        sizes = ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width))
        qkv, out, up, down = ((0.1 * drawn(*size), drawn(size[0])) for size in sizes)
        cache = drawn(2, 2, heads, length, head_width)
        slots, positions = torch.tensor([[1, 0], [length - 1, 3]], device=device)

        parts = F.linear(F.layer_norm(x, (width,), gain, shift), *qkv).view(2, 3, heads, head_width)
        keys, values = cache.clone().unbind()
        keys[slots, :, positions], values[slots, :, positions] = parts[:, 1], parts[:, 2]
        seen = torch.arange(length, device=device) <= positions[:, None, None, None]
        attended = F.scaled_dot_product_attention(
            parts[:, 0, :, None], keys[slots], values[slots], attn_mask=seen
        )
        middle = x + F.linear(attended.flatten(1), *out)
        inner = F.gelu(
            F.linear(F.layer_norm(middle, (width,), gain, shift), *up), approximate="tanh"
        )
        expected = middle + F.linear(inner, *down)

        queries = norm_qkv(x, (gain, shift), *qkv, 1e-5, cache, slots, positions)
        attend_and_add(x, queries, cache, slots, positions, length, *out)
        product_sum(x, norm_product(x, (gain, shift), *up, 1e-5, gelu=True), *down)

        logits, targets = drawn(3, 300), torch.tensor([0, 7, 299], device=device)
        logps, lses = target_logps(logits, targets)
        gradient = torch.softmax(logits, -1) - F.one_hot(targets, 300)
        found = logits_gradient_(logits.clone(), targets, lses, -torch.ones_like(lses))
        for ours, theirs in (
            (x, expected),
            (cache, torch.stack([keys, values])),
            (logps, -F.cross_entropy(logits, targets, reduction="none")),
            (found, gradient),
        ):
            # Where TensorFloat32 is allowed, PyTorch's products have three digits.
            if not torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2):
                raise RuntimeError(f"they differ from PyTorch by {(ours - theirs).abs().max():.2g}")

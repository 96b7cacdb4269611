"""The Triton kernels against the plain code over shapes, in Triton's interpreter (__init__.py)."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.generation.decoder import Decoder
from gpt2chat.core.generation.engine import make_decoder
from gpt2chat.core.generation.graph import GraphLoop
from gpt2chat.core.model import losses
from tests.helpers import tiny_model

pytest.importorskip("triton", reason="Triton is not installed: its kernels are not checked")

from gpt2chat.core.generation.fused import FusedDecoder
from gpt2chat.core.model import triton_kernels

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the interpreter is for machines without a GPU"
)


@pytest.fixture(autouse=True, scope="module")
def few_programs() -> Any:
    """Give a program more outputs and fewer inputs at a time: the interpreter runs one by one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_kernels, "ROWS", 64)
        patch.setattr(triton_kernels, "TILE", 32)
        patch.setattr(triton_kernels, "CHUNK", 64)
        yield


def steps(decoder: Decoder, texts: list[list[int]], slots: list[int], length: int) -> Tensor:
    """Return the scores after the last two tokens of each text, each run as a step."""
    for slot, ids in zip(slots, texts, strict=True):
        decoder.extend(ids[:-2], 0, slot)
    scores: list[Tensor] = []
    for last in (2, 1):
        tokens = torch.tensor([ids[-last] for ids in texts])
        positions = torch.tensor([len(ids) - last for ids in texts])
        with torch.inference_mode():
            scores.append(decoder.step_tensors(tokens, positions, torch.tensor(slots), length))
    return torch.stack(scores)


@settings(max_examples=8)
@given(
    heads=st.integers(1, 3),
    head_width=st.sampled_from([8, 16, 20]),
    lengths=st.lists(st.integers(3, 150), min_size=1, max_size=3),
    spare=st.integers(0, 40),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_step_of_the_kernels_has_the_scores_and_the_cache_of_the_plain_code(
    heads: int, head_width: int, lengths: list[int], spare: int, dtype: torch.dtype
):
    torch.manual_seed(sum(lengths))
    config = GPT2Config(
        vocab_size=90, n_positions=200, n_embd=heads * head_width, n_layer=2, n_head=heads,
        bos_token_id=None, eos_token_id=None, scale_attn_by_inverse_layer_idx=heads == 2,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    texts = [torch.randint(0, 90, (length,)).tolist() for length in lengths]
    slots = list(range(len(texts), 0, -1))
    attended = max(lengths) + spare
    plain, fused = (
        kind(model, dtype).with_slots(len(texts) + 2, 200) for kind in (Decoder, FusedDecoder)
    )
    expected, found = (steps(each, texts, slots, attended) for each in (plain, fused))
    tolerance = 1e-4 if dtype == torch.float32 else 0.03
    spread = float(expected.std())
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=10 * tolerance * spread)
    for found, expected in zip(fused.caches, plain.caches, strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=10 * tolerance)


@settings(max_examples=12)
@given(
    tokens=st.integers(0, 7),
    vocab=st.sampled_from([3, 300, 4096, 5000]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    top=st.sampled_from([1.0, 100.0]),
)
def test_the_kernels_of_the_head_have_the_value_and_gradient_of_the_plain_code(
    tokens: int, vocab: int, dtype: torch.dtype, top: float
):
    torch.manual_seed(vocab)
    hidden, weight = torch.randn(tokens, 6), top * torch.randn(vocab, 6)
    targets, gradient = torch.randint(0, vocab, (tokens,)), torch.randn(tokens)
    results: list[list[Tensor]] = []
    for kernels in (None, triton_kernels):
        parts = [part.to(dtype).requires_grad_() for part in (hidden, weight)]
        head: Any = losses._HeadLogps  # pyright: ignore[reportPrivateUsage]
        logps: Tensor = head.apply(*parts, targets, 32, kernels)
        results.append([logps.detach(), *torch.autograd.grad(logps, parts, gradient)])
    # The gradient of a logit in bf16 is rounded the same way by both, apart from ties.
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * top)


def test_the_comparison_before_the_first_use_passes_and_detects_a_wrong_kernel(
    monkeypatch: pytest.MonkeyPatch,
):
    with torch.autocast("cpu", torch.bfloat16):  # as in a training step
        triton_kernels.check(CPU)
    target_logps = triton_kernels.target_logps

    def wrong(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logps, lses = target_logps(logits, targets)
        return logps + 0.1, lses

    monkeypatch.setattr(triton_kernels, "target_logps", wrong)
    with pytest.raises(RuntimeError, match=r"differ from PyTorch by 0\.1"):
        triton_kernels.check(CPU)


def test_replies_of_a_loop_are_those_of_the_plain_code(monkeypatch: pytest.MonkeyPatch):
    def wanted(device: torch.device) -> Any:
        return triton_kernels

    model, draw = tiny_model(), Sampling(repetition_penalty=1.2)
    monkeypatch.setattr(triton_kernels, "ROWS", 8192)  # the head has 50,264 of them
    decoders = [make_decoder(model, "fp32")[1]]
    monkeypatch.setattr("gpt2chat.core.generation.engine.kernels_for", wanted)
    decoders.append(make_decoder(model, "fp32")[1])
    assert [type(each) for each in decoders] == [Decoder, FusedDecoder]
    replies: list[list[int]] = []
    for decoder in decoders:
        loop = GraphLoop(decoder, draw)
        tokens = loop.begin(decoder.extend([1, 2, 3], 0)[None], [3], 1)
        replies.append(tokens + [loop.next()[0] for _ in range(3)])
    assert replies[0] == replies[1]

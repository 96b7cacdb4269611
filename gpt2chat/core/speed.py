"""What a token costs: parameters, floating-point operations, and seconds on this device."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2chat.core.config import Sampling
from gpt2chat.core.generate import Generator
from gpt2chat.core.tokens import ENDOFTEXT_ID

PROMPT = 512
"""Tokens of the prompt that is timed."""
NEW = 64
"""Tokens that are generated after it, at most."""
RUNS = 5


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, lowest and highest of several runs."""

    median: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second with one conversation at a time, float32, as `gpt2chat chat` runs."""

    prompt: int
    """Tokens of the prompt."""
    prefill: Spread
    """Tokens of the prompt by the seconds to the first generated token."""
    decode: Spread | None
    """Generated tokens after the first by the seconds they took; None if there were none."""


def parameters(model: GPT2LMHeadModel) -> int:
    """Return the number of weights; the head is the token embedding and counts once."""
    return sum(weight.numel() for weight in model.parameters())


def flops_per_token(config: GPT2Config, context: int) -> int:
    """Return the floating-point operations of one token's forward pass, its logits included.

        2 · (layers · (4 · width² + 2 · width · inner) + vocab · width)    matrices, head included
        + 4 · layers · width · context                                     QKᵀ and AV

    A multiplication and an addition are two. Embedding look-ups, norms, biases and activations
    are left out. GPT-2 124M with a vocabulary of 50,264 at a context of 1,024: 284,823,552.

    Args:
        context: Positions the token attends to, its own included.

    Source:
        Kaplan et al. (2020), arXiv:2001.08361, table 1, with the head counted.
    """
    width, layers = config.n_embd, config.n_layer
    inner = config.n_inner or 4 * width
    matrices = layers * (4 * width**2 + 2 * width * inner) + config.vocab_size * width
    return 2 * matrices + 4 * layers * width * context


def measure_speed(
    model: GPT2LMHeadModel, device: torch.device, on_progress: Callable[[int, int], None]
) -> Speed:
    """Return prefill and decode speed: medians over `RUNS` runs, after one that is not counted.

    The prompt is drawn tokens: after them a model has no reason to end its turn.
    """
    window = model.config.n_positions
    length = min(PROMPT, window // 2)
    sampling = Sampling(max_new_tokens=min(NEW, window - length), seed=0)
    drawn = torch.Generator().manual_seed(0)
    prompt: Any = torch.randint(ENDOFTEXT_ID, (length,), generator=drawn).tolist()
    prefill: list[float] = []
    decode: list[float] = []
    for run in range(RUNS + 1):
        on_progress(run, RUNS + 1)
        # A generator of its own: another one would keep the prompt's keys and values.
        reply = Generator(model, device).generate(prompt, sampling)
        if run:
            prefill.append(length / reply.first_seconds)
            decode.append(reply.tokens_per_second)
    on_progress(RUNS + 1, RUNS + 1)
    decoded = [speed for speed in decode if speed > 0]
    return Speed(length, _spread(prefill), _spread(decoded) if decoded else None)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values), len(values))

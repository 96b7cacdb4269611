"""Measure how many tokens per second a model reads and writes on this device."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GPT2LMHeadModel

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.generation.generate import Generator
from gpt2chat.core.text.tokens import ENDOFTEXT_ID

PROMPT_TOKENS = 512
NEW_TOKENS = 64
"""Most tokens to generate after the prompt."""
TIMED_RUNS = 5
"""Runs behind each median. One untimed run warms up caches and compiled kernels before them."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, lowest and highest of several runs."""

    median: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second in one conversation at a time, with the default precision of a chat."""

    precision: str
    """Type in which weights are read: int8, bf16 or fp32."""
    prompt: int
    """Length of the prompt in tokens."""
    prefill: Spread
    """Prompt tokens per second, up to the first generated token."""
    decode: Spread | None
    """Generated tokens per second after the first; None if there were none."""


def measure_speed(
    model: GPT2LMHeadModel, device: torch.device, on_progress: Callable[[int, int], None]
) -> Speed:
    """Return prefill and decode speed: medians over `TIMED_RUNS` runs.

    The prompt is random tokens: after them a model has no reason to end its turn.
    """
    generator = Generator(model, device)
    # At most half of a small window, so that there is room for a reply.
    length = min(PROMPT_TOKENS, generator.window // 2)
    sampling = Sampling(max_new_tokens=min(NEW_TOKENS, generator.window - length), seed=0)
    random = torch.Generator().manual_seed(0)
    # ENDOFTEXT_ID is the first token that is not text.
    prompt: Any = torch.randint(ENDOFTEXT_ID, (length,), generator=random).tolist()
    prefill: list[float] = []
    decode: list[float] = []
    for run in range(TIMED_RUNS + 1):
        on_progress(run, TIMED_RUNS + 1)
        # With another first token, no cached keys and values can be reused.
        reply = generator.generate([run, *prompt[1:]], sampling)
        if run:
            prefill.append(length / reply.first_seconds)
            decode.append(reply.tokens_per_second)
    on_progress(TIMED_RUNS + 1, TIMED_RUNS + 1)
    decode = [speed for speed in decode if speed > 0]  # 0: the reply ended with its first token
    return Speed(generator.precision, length, _spread(prefill), _spread(decode) if decode else None)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values), len(values))

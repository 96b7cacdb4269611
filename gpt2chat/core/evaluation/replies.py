"""Generated replies: do they end, do they repeat themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.generation.generate import Generator

MAX_NEW_TOKENS = 128
TOGETHER = 8
"""Replies that are generated side by side."""


@dataclass(frozen=True, slots=True)
class Replies:
    """What a model's replies to held-out prompts are like."""

    replies: int
    stopped: float
    """Share that ended with a stop token within `MAX_NEW_TOKENS` tokens."""
    tokens: float
    """Mean length, without the stop token."""
    repetition: float
    """Share of 4-grams of tokens that stand earlier in the same reply, over all replies."""
    distinct_2: float
    """Different pairs of neighbouring tokens by all such pairs, over all replies."""


def measure_replies(
    generator: Generator,
    prompts: Sequence[Sequence[int]],
    seed: int,
    on_progress: Callable[[int, int], None],
) -> Replies:
    """Generate a reply to each prompt with chat's default sampling, and describe them.

    Args:
        prompts: At least one.
    """
    sampling = Sampling(max_new_tokens=MAX_NEW_TOKENS, seed=seed)
    found: list[tuple[int, ...]] = []
    stopped = 0
    for start in range(0, len(prompts), TOGETHER):
        on_progress(start, len(prompts))
        for reply in generator.generate_batch(prompts[start : start + TOGETHER], sampling):
            found.append(reply.ids)
            stopped += reply.stopped
    on_progress(len(prompts), len(prompts))
    return Replies(
        replies=len(found),
        stopped=stopped / len(found),
        tokens=sum(map(len, found)) / len(found),
        repetition=repetition(found),
        distinct_2=distinct(found, 2),
    )


def repetition(replies: Sequence[Sequence[int]], n: int = 4) -> float:
    """Return the share of n-grams that stand earlier in the same reply; 0 if there are none."""
    grams = [_grams(reply, n) for reply in replies]
    count = sum(map(len, grams))
    return 1 - sum(len(set(some)) for some in grams) / count if count else 0.0


def distinct(replies: Sequence[Sequence[int]], n: int) -> float:
    """Return the different n-grams of all replies by all their n-grams; 0 if there are none.

    Source:
        Li et al. (2016), A Diversity-Promoting Objective Function, arXiv:1510.03055.
    """
    grams = [gram for reply in replies for gram in _grams(reply, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _grams(reply: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(reply[at : at + n]) for at in range(len(reply) - n + 1)]

"""What is timed, and the figures that its times give."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from gpt2chat.core.text.tokens import ENDOFTEXT_ID

Prompts = Sequence[Sequence[int]]
"""Token ids of a batch, all of one length."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is timed: prompts of so many drawn tokens, and so many new tokens after each."""

    prompt: int
    new: int
    batch: int = 1

    def prompts(self, seed: int) -> Prompts:
        """Return the ids. None begins like those of another task or seed: a cache is of no use."""
        drawn = random.Random(f"{self} {seed}")
        return [drawn.choices(range(ENDOFTEXT_ID), k=self.prompt) for _ in range(self.batch)]

    def __str__(self) -> str:
        return f"{self.batch} × ({self.prompt} + {self.new})"


@dataclass(frozen=True, slots=True)
class Timing:
    """When the tokens of one batch came, in seconds after its start."""

    first: float
    """The first token of every prompt: the latency of a reply."""
    last: float
    ids: list[int]
    """The reply to the first prompt."""


def timing(begun: float, marks: Sequence[float], batch: int, replies: Prompts, new: int) -> Timing:
    """Return the times of a batch, after a look at what was generated.

    Args:
        marks: When each step, or each token of each step, was there; the first `batch` marks or
            the first one are the first step's.
    """
    lengths = {len(reply) for reply in replies}
    if lengths != {new} or len(replies) != batch:
        raise ValueError(
            f"{len(replies)} replies of {sorted(lengths)} tokens, not {batch} of {new}"
        )
    first = marks[batch - 1] if len(marks) == batch * new else marks[0]
    return Timing(first - begun, marks[-1] - begun, list(replies[0]))


def decode_speed(task: Task, timing: Timing) -> float:
    """Tokens a second after the first of each reply, all replies together."""
    return task.batch * (task.new - 1) / (timing.last - timing.first)


def prefill_speed(task: Task, timing: Timing) -> float:
    """Tokens of the prompt by the seconds to the first new token."""
    return task.batch * task.prompt / timing.first


def latency(task: Task, timing: Timing) -> float:
    """Milliseconds to the first new token."""
    return timing.first * 1000

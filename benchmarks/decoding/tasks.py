"""Define the tasks to time, and compute figures from their times."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from gpt2chat.core.text.tokens import ENDOFTEXT_ID

Prompts = Sequence[Sequence[int]]
"""Token ids of a batch, all of one length."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task to time: prompts of random tokens, and a number of new tokens after each."""

    prompt: int
    new: int
    batch: int = 1

    def prompts(self, seed: int) -> Prompts:
        """Return the ids. Tasks and seeds have different beginnings, so that no cache helps."""
        drawn = random.Random(f"{self} {seed}")
        return [drawn.choices(range(ENDOFTEXT_ID), k=self.prompt) for _ in range(self.batch)]

    def __str__(self) -> str:
        return f"{self.batch} × ({self.prompt} + {self.new})"


@dataclass(frozen=True, slots=True)
class Timing:
    """The times of the tokens of one batch, in seconds after its start."""

    first: float
    """Time at which every prompt had its first token: the latency of a reply."""
    last: float
    ids: list[int]
    """The reply to the first prompt."""


def timing(begun: float, marks: Sequence[float], batch: int, replies: Prompts, new: int) -> Timing:
    """Check what was generated, and return the times of the batch.

    Args:
        marks: Time of each step, or of each token of each step. The first mark, or the first
            `batch` marks, belong to the first step.
    """
    lengths = {len(reply) for reply in replies}
    if lengths != {new} or len(replies) != batch:
        raise ValueError(
            f"{len(replies)} replies of {sorted(lengths)} tokens, not {batch} of {new}"
        )
    first = marks[batch - 1] if len(marks) == batch * new else marks[0]
    return Timing(first - begun, marks[-1] - begun, list(replies[0]))


def decode_speed(task: Task, timing: Timing) -> float:
    """Return tokens per second after the first one of each reply, all replies together."""
    return task.batch * (task.new - 1) / (timing.last - timing.first)


def prefill_speed(task: Task, timing: Timing) -> float:
    """Return the tokens of the prompt per second, up to the first new token."""
    return task.batch * task.prompt / timing.first


def latency(task: Task, timing: Timing) -> float:
    """Return the milliseconds to the first new token."""
    return timing.first * 1000

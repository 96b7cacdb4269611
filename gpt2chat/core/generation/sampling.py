"""Draw the next token from a model's scores: penalties, temperature, top-k, top-p, min-p."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.errors import ReplyError
from gpt2chat.core.text.tokens import EOT_ID, SPECIAL_IDS, VOCAB

NEVER = [token_id for token_id in SPECIAL_IDS.values() if token_id != EOT_ID]
"""Control tokens that a reply must not contain: all but the end of turn."""
COLDEST = 1e-6
"""Below this temperature the likeliest token is taken: others have no chance left, and dividing the
scores by it can overflow float32."""
NOT_FINITE = (
    "The model's scores are not finite: its weights are damaged, or the precision is too low. "
    'Try `precision="fp32"`, or another `model`.'
)
TOP_P_FIRST = 1024
"""Number of likeliest tokens in which top-p is tried before the whole vocabulary is sorted."""


class Choice(NamedTuple):
    """A drawn token."""

    token: int
    logprob: float | None = None
    """The token's log-probability under the model, before penalties and temperature."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens with their log-probabilities, best first."""


class Sampler:
    """Draws the tokens of several replies, and remembers them.

    The random numbers come from the CPU whatever the device, and each reply has its own stream. So
    a seed gives the same tokens on every device, alone and in a batch.
    """

    def __init__(self, sampling: Sampling, replies: int = 1, top_logprobs: int | None = None):
        """Start new replies.

        Args:
            top_logprobs: Number of likeliest tokens to return with each choice. 0 returns only the
                choice's own log-probability, None no log-probability.
        """
        self.sampling = sampling
        self.top_logprobs = top_logprobs
        # Where a reply ends and what its seed is makes no difference to a draw.
        self.drawn_by = replace(sampling, seed=None, stop=(), max_new_tokens=1)
        self.histories: list[list[int]] = [[] for _ in range(replies)]
        self.seen = torch.zeros(replies, VOCAB, dtype=torch.bool)
        self.random = [torch.Generator() for _ in range(replies)]
        for random in self.random:
            if sampling.seed is None:
                random.seed()
            else:
                random.manual_seed(sampling.seed)

    def __call__(self, logits: Tensor, replies: Sequence[int] = (0,)) -> list[Choice]:
        """Return the next token of some replies.

        Args:
            logits: Shape (replies, vocab), float32.

        Raises:
            ReplyError: The scores are not finite.
        """
        return _draw(logits, [(self, reply) for reply in replies])


def draw_together(logits: Tensor, samplers: Sequence[Sampler]) -> list[Choice]:
    """Return the next token of the only reply of each sampler.

    Args:
        logits: Shape (samplers, vocab), float32.

    Raises:
        ReplyError: The scores are not finite.
    """
    logits = logits.cpu()
    groups: dict[tuple[Sampling, int | None], list[int]] = {}
    for row, sampler in enumerate(samplers):
        groups.setdefault((sampler.drawn_by, sampler.top_logprobs), []).append(row)
    choices: dict[int, Choice] = {}
    for rows in groups.values():
        # Usually all have the same settings, and selecting rows would copy the scores.
        own = logits if len(rows) == len(samplers) else logits[rows]
        drawn = _draw(own, [(samplers[row], 0) for row in rows])
        choices |= zip(rows, drawn, strict=True)
    return [choices[row] for row in range(len(samplers))]


def _draw(logits: Tensor, replies: Sequence[tuple[Sampler, int]]) -> list[Choice]:
    """Return the next token of replies that are drawn by the same settings.

    Args:
        logits: Shape (replies, vocab).
        replies: Each a sampler and the number of one of its replies.
    """
    logits = logits.cpu()
    # numpy's maximum is NaN if one score is.
    if not np.isfinite(logits.numpy().max()):
        raise ReplyError(NOT_FINITE)
    sampling, top_logprobs = replies[0][0].sampling, replies[0][0].top_logprobs
    histories = [sampler.histories[reply] for sampler, reply in replies]
    banned = None
    if n := sampling.no_repeat_ngram:
        banned = never_mask(logits.device).repeat(len(replies), 1)
        for row, history in enumerate(histories):
            banned[row, ending_ngram(history, n)] = True
    seen = torch.stack([sampler.seen[reply] for sampler, reply in replies])
    shown = logits
    if sampling.frequency_penalty or sampling.presence_penalty:
        counts = torch.zeros_like(logits)
        for row, history in enumerate(histories):
            counts[row] += torch.bincount(torch.tensor(history, dtype=torch.long), minlength=VOCAB)
        shown = logits - sampling.frequency_penalty * counts - sampling.presence_penalty * seen
    longest = max(map(len, histories))
    chances, ids = candidates(shown, seen, sampling, banned, longest)
    clocks = torch.ones_like(chances)
    # A reply draws as many numbers as it has candidates, however many the other replies have: its
    # stream is then the same in a batch as alone.
    numbers: list[int] = (chances > 0).sum(-1).tolist()
    for row, count, (sampler, reply) in zip(clocks, numbers, replies, strict=True):
        row[:count].exponential_(generator=sampler.random[reply])
    drawn = ids.gather(1, first_to_ring(chances, clocks))[:, 0]
    tokens: list[int] = drawn.tolist()
    for (sampler, reply), token in zip(replies, tokens, strict=True):
        sampler.histories[reply].append(token)
        sampler.seen[reply, token] = True
    if top_logprobs is None:
        return [Choice(token) for token in tokens]
    choices: list[Choice] = []
    for token, logps in zip(tokens, logits.log_softmax(-1), strict=True):
        top: Any = logps.topk(top_logprobs)
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        choices.append(Choice(token, float(logps[token]), tuple(pairs)))
    return choices


def candidates(
    logits: Tensor,
    seen: Tensor,
    sampling: Sampling,
    banned: Tensor | None = None,
    longest: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the chances of the tokens that may follow, likeliest first, and the tokens' ids.

    The order is that of transformers: penalty, temperature, top-k, top-p, min-p. Nothing here waits
    for a GPU, so a CUDA graph can hold it.

    Args:
        logits: Shape (replies, vocab), float32.
        seen: True at the tokens of the replies so far, shape (replies, vocab). The penalty applies
            to these only: with the prompt's tokens the model would avoid the user's words.
        banned: True at tokens that must not follow, of the same shape.
        longest: Tokens of the longest reply so far; `max_new_tokens` by default.

    Returns:
        Two tensors of shape (replies, candidates). The chances do not add up to 1.
    """
    vocab = logits.shape[1]
    count = 1 if sampling.temperature < COLDEST else sampling.top_k
    if not count or sampling.repetition_penalty < 1 or logits.device.type != "cpu":
        # A GPU handles the whole vocabulary in fewer kernels, and a graph of its draw must not
        # depend on the longest reply.
        scores, ids = logits, torch.arange(vocab, device=logits.device).expand_as(logits)
    else:
        # All tokens that can be among the top k in the end. The penalty and the ban on n-grams
        # lower only the scores of the reply's tokens, and control tokens drop out, so that many
        # more than k suffice. On a CPU this saves most of the time of a draw.
        if sampling.repetition_penalty != 1 or sampling.no_repeat_ngram:
            count += sampling.max_new_tokens if longest is None else longest
        scores, ids = logits.topk(min(count + len(NEVER), vocab))
    if sampling.repetition_penalty != 1:
        if logits.device.type == "cpu":
            # torch would start its threads for so small a mean, next to those of the decoder.
            mean = torch.from_numpy(logits.numpy().mean(-1, keepdims=True))
        else:
            mean = logits.mean(-1, keepdim=True)
        scores = penalize(scores - mean, seen.gather(1, ids), sampling.repetition_penalty)
    if banned is None:
        banned = never_mask(scores.device)
    scores = scores.masked_fill(banned.expand_as(logits).gather(1, ids), -torch.inf)
    if sampling.temperature < COLDEST:
        best = ids.gather(1, scores.argmax(-1, keepdim=True))
        return torch.ones_like(best, dtype=torch.float32), best
    chances, order = _ranked(scores / sampling.temperature, sampling)
    # A token stays if those before it do not reach top_p yet, so the likeliest always stays.
    chances = chances.where(chances.cumsum(-1) - chances < sampling.top_p, 0)
    chances = chances.where(chances >= sampling.min_p * chances[:, :1], 0)
    return chances, ids.gather(1, order)


def _ranked(scores: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return the chances that top-k leaves, highest first, and their indices in `scores`."""
    width = scores.shape[1]
    if sampling.top_k:
        top, order = scores.topk(min(sampling.top_k, width))
        return top.softmax(-1), order
    if scores.device.type == "cpu" and sampling.top_p < 1:
        # Sorting the vocabulary takes longer than the model, and few tokens mostly reach top_p.
        top, order = scores.topk(min(TOP_P_FIRST, width))
        chances = (top - scores.logsumexp(-1, keepdim=True)).exp()
        if bool((chances.sum(-1) > sampling.top_p).all()):
            return chances, order
    top, order = scores.sort(descending=True)
    return top.softmax(-1), order


def penalize(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Return scores with those of seen tokens divided by `penalty`, or multiplied if below 0.

    The mean of the scores over the vocabulary should be 0. GPT-2's own scores lie tens below 0,
    where multiplying by 1.1 takes away ten nats and forbids every word used once. Shifting them all
    changes no probability.

    Source:
        Keskar et al. (2019), CTRL, arXiv:1909.05858; transformers has the same rule.
    """
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def ending_ngram(reply: Sequence[int], n: int) -> list[int]:
    """Return the tokens that would end an n-gram which the reply already contains."""
    end = reply[len(reply) - n + 1 :]
    starts = range(len(reply) - n + 1)
    return [reply[at + n - 1] for at in starts if reply[at : at + n - 1] == end]


def first_to_ring(chances: Tensor, clocks: Tensor) -> Tensor:
    """Return the index of the drawn candidate of each reply, shape (replies, 1).

    Each candidate has an exponential clock that runs at the speed of its chance. The probability
    that a clock rings first is its share of the chances, so this is a draw from them, and unlike
    `multinomial` it never waits for the device.

    Args:
        chances: Unnormalised, shape (replies, candidates).
        clocks: Exponential random numbers of the same shape.
    """
    return (chances / clocks).argmax(-1, keepdim=True)


@cache
def never_mask(device: torch.device) -> Tensor:
    """Return a mask that is True at the tokens in NEVER, shape (vocab,)."""
    mask = torch.zeros(VOCAB, dtype=torch.bool, device=device)
    mask[NEVER] = True
    return mask

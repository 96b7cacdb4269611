"""The next token from a model's scores: penalties, temperature, top-k, top-p, min-p, a draw."""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.errors import ReplyError
from gpt2chat.core.text.tokens import EOT_ID, SPECIAL_IDS, VOCAB

NEVER = [token_id for token_id in SPECIAL_IDS.values() if token_id != EOT_ID]
"""Control tokens that have no place in a reply."""
COLDEST = 1e-6
"""Below this temperature only the likeliest token has a chance left, and float32 overflows."""
NOT_FINITE = (
    "The model's scores are not finite: its weights are damaged, or the precision is too low. "
    "Try --precision fp32, or another model."
)
FEW = 1024
"""Tokens that are tried first where top-p is to choose among all."""


class Choice(NamedTuple):
    """A token that was drawn."""

    token: int
    logprob: float | None = None
    """Its log-probability under the model itself, before penalties and temperature."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens with theirs, best first, as many as were asked for."""


class Sampler:
    """Draws the tokens of several replies, and remembers those that it has drawn.

    The random numbers are drawn on the CPU whatever the device, and each reply has its own: a seed
    means the same everywhere, and beside other replies what it means alone.
    """

    def __init__(self, sampling: Sampling, replies: int = 1, top_logprobs: int | None = None):
        """Begin; with `top_logprobs` a choice has log-probabilities, with 0 its own only."""
        self.sampling = sampling
        self.top_logprobs = top_logprobs
        self.histories: list[list[int]] = [[] for _ in range(replies)]
        self._seen = torch.zeros(replies, VOCAB, dtype=torch.bool)
        self._random = [torch.Generator() for _ in range(replies)]
        for random in self._random:
            if sampling.seed is None:
                random.seed()
            else:
                random.manual_seed(sampling.seed)

    def __call__(self, logits: Tensor, replies: Sequence[int] = (0,)) -> list[Choice]:
        """Return the next token of some replies.

        Args:
            logits: Shape (replies, vocab), float32.

        Raises:
            ReplyError: They are not finite.
        """
        logits = logits.cpu()
        # Where one score is NaN, numpy's maximum is.
        if not np.isfinite(logits.numpy().max()):
            raise ReplyError(NOT_FINITE)
        seen, banned = self._seen[list(replies)], self._banned(replies)
        chances, ids = candidates(logits, seen, self.sampling, banned)
        clocks = torch.ones_like(chances)
        # As many numbers as candidates, however many other replies have.
        counts: list[int] = (chances > 0).sum(-1).tolist()
        for row, count, reply in zip(clocks, counts, replies, strict=True):
            row[:count].exponential_(generator=self._random[reply])
        drawn = ids.gather(1, first_to_ring(chances, clocks))[:, 0]
        tokens: list[int] = drawn.tolist()
        for reply, token in zip(replies, tokens, strict=True):
            self.histories[reply].append(token)
            self._seen[reply, token] = True
        if self.top_logprobs is None:
            return [Choice(token) for token in tokens]
        logps = logits.log_softmax(-1)
        return [
            _choice(token, row, self.top_logprobs) for token, row in zip(tokens, logps, strict=True)
        ]

    def _banned(self, replies: Sequence[int]) -> Tensor | None:
        """Return which tokens would repeat an n-gram, shape (replies, vocab); None if all may."""
        n = self.sampling.no_repeat_ngram
        if not n:
            return None
        banned = torch.zeros(len(replies), VOCAB, dtype=torch.bool)
        for row, reply in enumerate(replies):
            banned[row, ending_ngram(self.histories[reply], n)] = True
        return banned


def candidates(
    logits: Tensor, seen: Tensor, sampling: Sampling, banned: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the tokens that may follow, likeliest first, and their chances, unnormalised.

    The order is transformers': penalty, temperature, top-k, top-p, min-p. Nothing here waits for a
    GPU, so a CUDA graph can hold it.

    Args:
        logits: Shape (replies, vocab), float32.
        seen: Which tokens the replies have so far, shape (replies, vocab). The penalty looks at
            them only: with the prompt's tokens the model would avoid the user's words.
        banned: Which tokens must not follow, of the same shape.

    Returns:
        Two tensors of shape (replies, candidates).
    """
    scores, ids = _likeliest(logits, sampling)
    if sampling.repetition_penalty != 1:
        centred = scores - _mean(logits)
        scores = penalize(centred, seen.gather(1, ids), sampling.repetition_penalty)
    never = _never(scores.device)[ids]
    if banned is not None:
        never = never | banned.gather(1, ids)
    scores = scores.masked_fill(never, -torch.inf)
    if sampling.temperature < COLDEST:
        best = ids.gather(1, scores.argmax(-1, keepdim=True))
        return torch.ones_like(best, dtype=torch.float32), best
    chances, order = _ranked(scores / sampling.temperature, sampling)
    # A token stays while those before it are short of top_p: the likeliest always does.
    chances = chances.where(chances.cumsum(-1) - chances < sampling.top_p, 0)
    chances = chances.where(chances >= sampling.min_p * chances[:, :1], 0)
    return chances, ids.gather(1, order)


def _ranked(scores: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return the chances that top-k leaves, highest first, and the places they stand at."""
    width = scores.shape[1]
    if sampling.top_k:
        top, order = scores.topk(min(sampling.top_k, width))
        return top.softmax(-1), order
    if scores.device.type == "cpu" and sampling.top_p < 1:
        # Sorting the vocabulary takes longer than the model; mostly few tokens reach top_p.
        top, order = scores.topk(min(FEW, width))
        chances = (top - scores.logsumexp(-1, keepdim=True)).exp()
        if bool((chances.sum(-1) > sampling.top_p).all()):
            return chances, order
    top, order = scores.sort(descending=True)
    return top.softmax(-1), order


def penalize(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Return scores with those of seen tokens divided by `penalty` (times, below 0).

    The rule of CTRL (arXiv:1909.05858) and transformers, for scores whose mean over the vocabulary
    is 0. GPT-2's own lie tens below 0, where dividing by 1.1 takes ten nats and forbids every word
    used once; a shift changes no probability.
    """
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def ending_ngram(reply: Sequence[int], n: int) -> list[int]:
    """Return the tokens that would end an n-gram which stands in the reply already."""
    end = reply[len(reply) - n + 1 :]
    starts = range(len(reply) - n + 1)
    return [reply[at + n - 1] for at in starts if reply[at : at + n - 1] == end]


def first_to_ring(chances: Tensor, clocks: Tensor) -> Tensor:
    """Return a draw for each reply as the exponential clock that rings first, shape (replies, 1).

    Clocks that run at the speed of the chances ring first by the chances; no device has to wait.
    """
    return (chances / clocks).argmax(-1, keepdim=True)


def _likeliest(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return the scores and ids that can be among the top k in the end: the penalty and the n-grams
    lower scores of the reply's tokens only, and control tokens are left out. The rest costs time.
    """
    vocab = logits.shape[1]
    wanted = 1 if sampling.temperature < COLDEST else sampling.top_k
    if not wanted or sampling.repetition_penalty < 1:
        return logits, torch.arange(vocab, device=logits.device).expand_as(logits)
    lowers = sampling.repetition_penalty != 1 or sampling.no_repeat_ngram
    lowered = sampling.max_new_tokens if lowers else 0
    top = logits.topk(min(wanted + lowered + len(NEVER), vocab))
    return top.values, top.indices


def _mean(logits: Tensor) -> Tensor:
    if logits.device.type != "cpu":
        return logits.mean(-1, keepdim=True)
    # torch would start its threads for so little, beside those that the decoder keeps spinning.
    return torch.from_numpy(logits.numpy().mean(-1, keepdims=True))


@cache
def _never(device: torch.device) -> Tensor:
    mask = torch.zeros(VOCAB, dtype=torch.bool, device=device)
    mask[NEVER] = True
    return mask


def _choice(token: int, logps: Tensor, count: int) -> Choice:
    top: Any = logps.topk(count)
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return Choice(token, float(logps[token]), tuple(pairs))

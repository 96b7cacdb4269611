"""Generate replies to held-out prompts, and measure whether they end and repeat themselves."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.evaluation.memo import Memo, key_of
from gpt2chat.core.generation.generate import Generator

MAX_NEW_TOKENS = 128
"""Longest reply, in tokens."""
PROMPTS_AT_ONCE = 8
"""Replies generated in one batch."""
END_NAMES = {"stop": "end of turn", "length": "limit", "window": "window"}
"""Names of the reasons why a reply ended."""


@dataclass(frozen=True, slots=True)
class ReplyText:
    """One generated reply."""

    text: str
    end: Literal["end of turn", "limit", "window"]
    """Why it ended: by the model, at `MAX_NEW_TOKENS`, or at the model's last position."""


@dataclass(frozen=True, slots=True)
class Replies:
    """A model's replies to held-out prompts, and statistics over them."""

    replies: int
    """Number of replies."""
    stopped: float
    """Share of replies that ended with a stop token within `MAX_NEW_TOKENS` tokens."""
    tokens: float
    """Mean length of a reply in tokens, without the stop token."""
    repetition: float
    """Share of 4-grams of tokens that also occur earlier in the same reply, over all replies."""
    distinct_2: float
    """Number of different pairs of neighbouring tokens, divided by all such pairs."""
    texts: tuple[ReplyText, ...]
    """The replies in the order of the prompts."""


def measure_replies(
    generator: Generator,
    prompts: Sequence[Sequence[int]],
    seed: int,
    on_progress: Callable[[int, int], None],
    memo: Memo,
    facts: tuple[object, ...],
) -> Replies:
    """Generate a reply to each prompt with chat's default sampling, and compute statistics.

    Args:
        prompts: Token ids of at least one prompt.
        memo: Where the replies of each batch are kept, and read if they are already there.
        facts: What the replies depend on besides the prompts, such as a hash of the model.
    """
    sampling = Sampling(max_new_tokens=MAX_NEW_TOKENS, seed=seed)
    ids: list[tuple[int, ...]] = []
    texts: list[ReplyText] = []
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        on_progress(start, len(prompts))
        batch = prompts[start : start + PROMPTS_AT_ONCE]
        key = key_of("replies", facts, generator.precision, batch, sampling)
        content = memo.read([key]).get(key)
        if content is None:
            replies = generator.generate_batch(batch, sampling)
            content = json.dumps(
                [
                    (reply.ids, reply.text.strip(), END_NAMES[reply.finish_reason])
                    for reply in replies
                ]
            ).encode()
            memo.add([(key, content)])
        for reply_ids, text, end in json.loads(content):
            ids.append(tuple(reply_ids))
            texts.append(ReplyText(text, end))
    on_progress(len(prompts), len(prompts))
    return Replies(
        replies=len(ids),
        stopped=sum(text.end == "end of turn" for text in texts) / len(ids),
        tokens=sum(map(len, ids)) / len(ids),
        repetition=repetition(ids),
        distinct_2=distinct(ids, 2),
        texts=tuple(texts),
    )


def repetition(replies: Sequence[Sequence[int]], n: int = 4) -> float:
    """Return the share of n-grams that occur earlier in the same reply; 0 if there are none."""
    grams = [_grams(reply, n) for reply in replies]
    count = sum(map(len, grams))
    return 1 - sum(len(set(each)) for each in grams) / count if count else 0.0


def distinct(replies: Sequence[Sequence[int]], n: int) -> float:
    """Return the number of different n-grams divided by all n-grams; 0 if there are none.

    Source:
        Li et al. (2016), A Diversity-Promoting Objective Function, arXiv:1510.03055.
    """
    grams = [gram for reply in replies for gram in _grams(reply, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _grams(reply: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(reply[at : at + n]) for at in range(len(reply) - n + 1)]

"""Generate replies to fixed and held-out prompts, and measure how they end, repeat and obey."""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.evaluation.memo import Memo, key_of
from gpt2chat.core.evaluation.questions import Question
from gpt2chat.core.evaluation.statistics import Ratio, Statistic
from gpt2chat.core.generation.generate import Generator
from gpt2chat.core.generation.reply import LONGEST_LOOP, LOOP_TIMES

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
    ids: tuple[int, ...]
    """Its token ids, without the end of turn."""
    tokens: tuple[str, ...] = ()
    """The texts of these tokens."""
    probabilities: tuple[float, ...] = ()
    """The probability of each token, without any rule of sampling."""


@dataclass(frozen=True, slots=True)
class Replies:
    """A model's replies to the fixed questions and to held-out prompts."""

    replies: int
    """Number of replies."""
    distinct_1: float
    """Number of different tokens, divided by all tokens."""
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
    questions: Sequence[Question] = (),
) -> tuple[Replies, dict[str, Statistic]]:
    """Generate a reply to each prompt with chat's default sampling, and compute statistics.

        replies that end          share that the model ended itself, within `MAX_NEW_TOKENS`
        empty replies             share without any text
        replies cut in a loop     share that a limit cut while they repeated themselves
        tokens in a reply         mean, without the stop token
        4-grams repeated          share of 4-grams of tokens that occur earlier in their reply
        longest loop              mean over replies of `longest_loop`, in tokens
        self-BLEU                 mean over replies of `self_bleu`: high if all sound alike
        instructions kept         share of the checks that the replies to questions fulfil

    Args:
        prompts: Token ids of at least one prompt, those of the questions first.
        memo: Where the replies of each batch are kept, and read if they are already there.
        facts: What the replies depend on besides the prompts, such as a hash of the model.

    Returns:
        The replies, and the statistics by prompt.
    """
    sampling = Sampling(max_new_tokens=MAX_NEW_TOKENS, seed=seed)
    ids: list[tuple[int, ...]] = []
    texts: list[ReplyText] = []
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        on_progress(start, len(prompts))
        batch = prompts[start : start + PROMPTS_AT_ONCE]
        # The other prompts of the batch are in the key, because rounding depends on them.
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
            # At once, so that an interruption loses one batch at most.
            memo.add([(key, content)])
        for reply_ids, text, end in json.loads(content):
            ids.append(tuple(reply_ids))
            texts.append(ReplyText(text, end, tuple(reply_ids)))
    on_progress(len(prompts), len(prompts))
    ended = np.array([text.end == "end of turn" for text in texts])
    loops = [longest_loop(reply) for reply in ids]
    in_loop = np.array([at_end for _, at_end in loops]) & ~ended
    grams = [_grams(reply, 4) for reply in ids]
    groups = tuple(str(number) for number in range(len(ids)))

    def mean(values: Sequence[Any] | NDArray[Any]) -> Ratio:
        return Ratio(np.array(values, np.float64), np.ones(len(ids)), groups)

    statistics: dict[str, Statistic] = {
        "reply_stopped": mean(ended),
        "reply_empty": mean([not text.text for text in texts]),
        "reply_endless": mean(in_loop),
        "reply_tokens": mean([len(reply) for reply in ids]),
        "reply_loop": mean([length for length, _ in loops]),
        "reply_self_bleu": mean(self_bleu(ids)),
    }
    if any(grams):
        repeated = [len(each) - len(set(each)) for each in grams]
        statistics["reply_repetition"] = Ratio(
            np.array(repeated, np.float64), np.array([len(each) for each in grams]), groups
        )
    answers = zip(questions, texts, strict=False)  # held-out prompts follow the questions
    kept = [question.kept(text.text) for question, text in answers if question.checks]
    if kept:
        statistics["reply_constraints"] = Ratio(
            np.array([sum(each) for each in kept], np.float64),
            np.array([len(each) for each in kept], np.float64),
            tuple(question.name for question in questions if question.checks),
        )
    replies = Replies(len(ids), distinct(ids, 1), distinct(ids, 2), tuple(texts))
    return replies, statistics


def longest_loop(reply: Sequence[int]) -> tuple[int, bool]:
    """Return the length in tokens of the longest passage that repeats itself, and if one ends it.

    A passage repeats itself if at most `LONGEST_LOOP` tokens occur at least `LOOP_TIMES` times in a
    row: "the cat the cat the cat" is one of 6 tokens. The length is 0 if there is none.
    """
    ids, longest, at_end = np.array(reply), 0, False
    for distance in range(1, min(LONGEST_LOOP, len(ids) // LOOP_TIMES) + 1):
        same = ids[distance:] == ids[:-distance]
        # Where runs of equal tokens begin and end.
        edges = np.flatnonzero(np.diff(np.concatenate([[0], same, [0]])))
        runs = edges[1::2] - edges[::2]
        looping = runs >= (LOOP_TIMES - 1) * distance
        longest = max([longest, *(runs[looping] + distance).tolist()])
        # The last run ends the reply only if the reply's last token is in it.
        at_end |= bool(same[-1] and looping[-1])
    return longest, at_end


def self_bleu(replies: Sequence[Sequence[int]]) -> list[float]:
    """Return the BLEU-4 of each reply against all others; 0 for an empty one.

        BLEU = min(1, exp(1 - r/c)) · (Π p_n)^(1/N)

    c is the reply's length and r that of the other reply nearest in length. p_n is the share of its
    n-grams that occur in another reply, each at most as often as there, and 0.1 of one if none
    does. N is 4, or the length of a shorter reply.

    Source:
        Zhu et al. (2018), Texygen, arXiv:1802.01886; Chen and Cherry (2014), smoothing 1.
    """
    counts = [[Counter(_grams(reply, n)) for reply in replies] for n in range(1, 5)]
    scores: list[float] = []
    for at, reply in enumerate(replies):
        others = [len(other) for place, other in enumerate(replies) if place != at and other]
        if not reply or not others:
            scores.append(0.0)
            continue
        logs: list[float] = []
        for n in range(min(4, len(reply))):
            own, most = counts[n][at], Counter[tuple[int, ...]]()
            for place, other in enumerate(counts[n]):
                if place != at:
                    most |= Counter({gram: other[gram] for gram in own.keys() & other.keys()})
            logs.append(math.log(max((own & most).total(), 0.1) / own.total()))
        nearest = min(others, key=lambda length: (abs(length - len(reply)), length))
        brevity = min(0.0, 1 - nearest / len(reply))
        scores.append(math.exp(brevity + sum(logs) / len(logs)))
    return scores


def distinct(replies: Sequence[Sequence[int]], n: int) -> float:
    """Return the number of different n-grams divided by all n-grams; 0 if there are none.

    Source:
        Li et al. (2016), A Diversity-Promoting Objective Function, arXiv:1510.03055.
    """
    grams = [gram for reply in replies for gram in _grams(reply, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _grams(reply: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(reply[at : at + n]) for at in range(len(reply) - n + 1)]

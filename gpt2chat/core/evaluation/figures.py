"""Compute the figures from token losses: perplexity, bits per byte, preference accuracy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpt2chat.core.data.shards import Pair, Sample
from gpt2chat.core.evaluation.scoring import Losses
from gpt2chat.core.evaluation.statistics import Estimate, FloatArray, Ratio, difference, estimate

SIMILAR = 0.2
"""Two replies have similar length if they differ by less than this share of the longer one."""


@dataclass(frozen=True, slots=True)
class Figure:
    """The name and format of a figure."""

    label: str
    unit: str
    """Plural noun for the samples behind the figure."""
    digits: int
    """Decimal places to show."""
    better: Literal["lower", "higher", ""]
    """Direction of improvement; empty if the figure has none."""


FIGURES: dict[str, Figure] = {
    "perplexity": Figure("perplexity of replies", "replies", 2, "lower"),
    "loss": Figure("loss, nats per token", "replies", 3, "lower"),
    "bits_per_byte": Figure("bits per byte", "replies", 3, "lower"),
    "reference_perplexity": Figure("reference construction", "conversations", 2, "lower"),
    "preference_accuracy": Figure("preference accuracy", "pairs", 3, "higher"),
    "preference_margin": Figure("margin, nats per token", "pairs", 3, "higher"),
    "preference_accuracy_sum": Figure("accuracy, summed log p", "pairs", 3, "higher"),
    "preference_accuracy_similar": Figure("accuracy, similar length", "pairs", 3, "higher"),
    "preference_longer": Figure("longer reply preferred", "pairs", 3, ""),
}
"""All figures, in display order."""


def reply_figures(samples: Sequence[Sample], losses: Sequence[Losses]) -> dict[str, Ratio]:
    """Return the headline figures: how well the model predicts the replies.

        loss           Σ loss / Σ tokens                       nats per token
        perplexity     exp(Σ loss / Σ tokens)
        bits per byte  Σ loss of the text / (ln 2 · Σ bytes)

    Sums run over all replies. Loss and perplexity count the end-of-turn token, which a chat model
    must get right. Bits per byte leave it out, so that other templates and base models, which have
    never seen the token, compare fairly: it costs the starter 17 nats.

    Args:
        losses: Losses of each reply's tokens, the last of which is the end of turn.
    """
    groups = tuple(sample.group for sample in samples)
    # The last loss is that of the end of turn.
    sums, text = _sums(losses), _sums([part[:-1] for part in losses])
    tokens = _array([len(part) for part in losses])
    sizes = _array([reply_bytes(sample) for sample in samples])
    return {
        "perplexity": Ratio(sums, tokens, groups, exponential=True),
        "loss": Ratio(sums, tokens, groups),
        "bits_per_byte": Ratio(text / math.log(2), sizes, groups),
    }


def reply_bytes(sample: Sample) -> int:
    """Return the UTF-8 bytes of a sample's reply."""
    reply = sample.conversation.reply
    return 0 if reply is None else len(reply.content.encode())


def reference_figures(samples: Sequence[Sample], losses: Sequence[Losses]) -> dict[str, Ratio]:
    """Return the reference project's figure: the mean over conversations of exp(mean loss).

    Every token of the rendered conversation except the first counts, including the system prompt,
    user messages and control tokens. A conversation that occurs several times counts each time.

    Args:
        losses: Losses of each conversation's tokens after the first.
    """
    with np.errstate(over="ignore"):  # exp(x) overflows float64 above x = 709
        values = np.exp(_means(losses))
    groups = tuple(sample.group for sample in samples)
    return {"reference_perplexity": Ratio(values, np.ones_like(values), groups)}


def preference_figures(
    pairs: Sequence[Pair], chosen: Sequence[Losses], rejected: Sequence[Losses]
) -> dict[str, Ratio]:
    """Return how often, and by how much, the model prefers the chosen reply.

        accuracy                     share of pairs with mean log p(chosen) > mean log p(rejected)
        margin                       mean difference of these two, in nats per token
        accuracy, summed             the same share by Σ log p, which favours the shorter reply
        accuracy of similar length   accuracy among pairs whose replies differ by less than 20 %
                                     in tokens; absent if there is no such pair
        longer reply preferred       share of pairs of different length whose longer reply has the
                                     higher mean log p: above 0.5 if length outweighs quality

    A tie counts as wrong. The end-of-turn token is part of a reply.

    Args:
        chosen: Losses of each chosen reply's tokens.
        rejected: Losses of each rejected reply's tokens.
    """
    groups = np.array([pair.group for pair in pairs])
    # Losses are -log p, so these are positive if the model prefers the chosen reply.
    margins = _means(rejected) - _means(chosen)
    sums = _sums(rejected) - _sums(chosen)
    chosen_lengths = _array([len(part) for part in chosen])
    rejected_lengths = _array([len(part) for part in rejected])
    excess = chosen_lengths - rejected_lengths

    def share(true: NDArray[np.bool_], among: NDArray[np.bool_]) -> Ratio:
        values = true[among].astype(np.float64)
        return Ratio(values, np.ones_like(values), tuple(map(str, groups[among])))

    # A tie counts as wrong, so that a model that prefers nothing scores 0.
    everywhere = np.ones(len(pairs), dtype=np.bool_)
    similar = np.abs(excess) < SIMILAR * np.maximum(chosen_lengths, rejected_lengths)
    ratios = {
        "preference_accuracy": share(margins > 0, everywhere),
        "preference_margin": Ratio(margins, np.ones_like(margins), tuple(map(str, groups))),
        "preference_accuracy_sum": share(sums > 0, everywhere),
    }
    if similar.any():
        ratios["preference_accuracy_similar"] = share(margins > 0, similar)
    if excess.any():
        # Same sign: the reply with the higher mean log p is also the longer one.
        ratios["preference_longer"] = share(margins * excess > 0, excess != 0)
    return ratios


def estimates(ratios: Mapping[str, Ratio], seed: int) -> dict[str, Estimate]:
    """Return each figure with its interval, in the order of `FIGURES`."""
    return {name: estimate(ratios[name], seed) for name in FIGURES if name in ratios}


def differences(
    ratios: Mapping[str, Ratio], others: Mapping[str, Ratio], seed: int
) -> dict[str, Estimate]:
    """Return each figure minus the other model's on the same samples, with paired intervals."""
    return {
        name: difference(ratios[name], others[name], seed) for name in FIGURES if name in ratios
    }


# float32 losses are added in float64: over a long reply float32 would lose the last digits.
def _sums(losses: Sequence[Losses]) -> FloatArray:
    return _array([part.sum(dtype=np.float64) for part in losses])


def _means(losses: Sequence[Losses]) -> FloatArray:
    return _array([part.mean(dtype=np.float64) for part in losses])


def _array(values: Sequence[float]) -> FloatArray:
    return np.array(values, dtype=np.float64)

"""Compute the figures from token losses: perplexity, bits per byte, preference accuracy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpt2chat.core.data.shards import Pair, Sample
from gpt2chat.core.evaluation.scoring import Losses
from gpt2chat.core.evaluation.statistics import (
    Estimate,
    FloatArray,
    Intercept,
    Ratio,
    Statistic,
    difference,
    estimate,
)

SIMILAR = 0.2
"""Two replies have similar length if they differ by less than this share of the longer one."""

POSITIONS = {"1": (0, 16), "17": (16, 64), "65": (64, 256), "257": (256, None)}
"""Parts of a reply for which perplexity is given: the first and the end, in tokens."""
BINS = 5
"""Points of a calibration curve, each of as many pairs."""


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
    meaning: str
    """How it is computed, in one line."""


FIGURES: dict[str, Figure] = {
    "perplexity": Figure(
        "perplexity of replies",
        "replies",
        2,
        "lower",
        "exp(Σ loss / Σ tokens) over the replies; the end of turn counts",
    ),
    "perplexity_turn_1": Figure(
        "· first reply",
        "replies",
        2,
        "lower",
        "perplexity of the replies that are the first of their conversation",
    ),
    "perplexity_turn_2": Figure(
        "· second reply",
        "replies",
        2,
        "lower",
        "perplexity of the second replies of their conversations",
    ),
    "perplexity_turn_3": Figure(
        "· third reply or later",
        "replies",
        2,
        "lower",
        "perplexity of all later replies of their conversations",
    ),
    "perplexity_token_1": Figure(
        "· tokens 1 to 16 of a reply",
        "replies",
        2,
        "lower",
        "perplexity of the first 16 tokens of each reply",
    ),
    "perplexity_token_17": Figure(
        "· tokens 17 to 64",
        "replies",
        2,
        "lower",
        "perplexity of the tokens 17 to 64 of each reply",
    ),
    "perplexity_token_65": Figure(
        "· tokens 65 to 256",
        "replies",
        2,
        "lower",
        "perplexity of the tokens 65 to 256 of each reply",
    ),
    "perplexity_token_257": Figure(
        "· tokens from 257 on",
        "replies",
        2,
        "lower",
        "perplexity of the tokens from 257 on of each reply",
    ),
    "loss": Figure(
        "loss, nats per token", "replies", 3, "lower", "Σ loss / Σ tokens over the replies"
    ),
    "bits_per_byte": Figure(
        "bits per byte",
        "replies",
        3,
        "lower",
        "Σ loss / (ln 2 · Σ UTF-8 bytes) of the replies without the end of turn",
    ),
    "reference_perplexity": Figure(
        "reference construction",
        "conversations",
        2,
        "lower",
        "the reference project's figure: mean over conversations of exp(mean loss)",
    ),
    "perplexity_rolling": Figure(
        "long conversations, rolling",
        "conversations",
        2,
        "lower",
        "perplexity of last replies in too long conversations, as a chat sees them",
    ),
    "perplexity_strided": Figure(
        "long conversations, strided",
        "conversations",
        2,
        "lower",
        "the same tokens in the whole text, with half a window before them or more",
    ),
    "preference_accuracy": Figure(
        "preference accuracy",
        "pairs",
        3,
        "higher",
        "share of pairs with mean log p(chosen) > mean log p(rejected)",
    ),
    "preference_margin": Figure(
        "margin, nats per token",
        "pairs",
        3,
        "higher",
        "mean of mean log p(chosen) - mean log p(rejected)",
    ),
    "preference_accuracy_sum": Figure(
        "accuracy, summed log p",
        "pairs",
        3,
        "higher",
        "the same as preference accuracy with Σ log p",
    ),
    "preference_accuracy_controlled": Figure(
        "accuracy at equal length",
        "pairs",
        3,
        "higher",
        "a in the least-squares line outcome = a + b · difference in length",
    ),
    "preference_accuracy_similar": Figure(
        "accuracy, similar length",
        "pairs",
        3,
        "higher",
        "accuracy of pairs whose replies differ by less than 20 % in length",
    ),
    "preference_longer": Figure(
        "longer reply preferred",
        "pairs",
        3,
        "",
        "share of pairs whose longer reply has the higher mean log p",
    ),
    "preference_log_odds": Figure(
        "margin in log odds",
        "pairs",
        3,
        "higher",
        "mean difference of log P/(1 - P), with log P = mean log p of a reply",
    ),
    "reply_stopped": Figure(
        "replies that end",
        "replies",
        3,
        "higher",
        "share of generated replies that the model ends itself, within 128 tokens",
    ),
    "reply_empty": Figure(
        "empty replies", "replies", 3, "lower", "share of generated replies without any text"
    ),
    "reply_endless": Figure(
        "replies cut in a loop",
        "replies",
        3,
        "lower",
        "share of generated replies that repeat themselves where they are cut",
    ),
    "reply_tokens": Figure(
        "tokens in a reply, mean", "replies", 1, "", "mean length of generated replies"
    ),
    "reply_repetition": Figure(
        "4-grams repeated",
        "replies",
        3,
        "lower",
        "share of 4-grams of tokens that occur earlier in the same reply",
    ),
    "reply_loop": Figure(
        "longest loop, tokens",
        "replies",
        1,
        "lower",
        "mean length of the longest passage that is one piece three times or more in a row",
    ),
    "reply_self_bleu": Figure(
        "self-BLEU", "replies", 3, "lower", "mean BLEU-4 of each generated reply against all others"
    ),
    "reply_constraints": Figure(
        "instructions kept",
        "questions",
        3,
        "higher",
        "share of the checks, such as at most ten words, that replies fulfil",
    ),
}
"""All figures, in display order, without those of one source."""


def describe(name: str) -> Figure:
    """Return the name and format of a figure, such as `preference_accuracy/ultrafeedback`."""
    base, _, source = name.partition("/")
    figure = FIGURES[base]
    return replace(figure, label=f"· of {source}") if source else figure


def reply_figures(samples: Sequence[Sample], losses: Sequence[Losses]) -> dict[str, Ratio]:
    """Return the headline figures: how well the model predicts the replies.

        loss           Σ loss / Σ tokens                       nats per token
        perplexity     exp(Σ loss / Σ tokens)
        bits per byte  Σ loss of the text / (ln 2 · Σ bytes)

    Perplexity is also given by the depth of the reply in its conversation, and by the position of
    the tokens in the reply.

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
    ratios = {"perplexity": Ratio(sums, tokens, groups, exponential=True)}
    earlier = [sum(m.role == "assistant" for m in each.conversation.history) for each in samples]
    depths = np.array([min(number + 1, 3) for number in earlier])
    for depth in (1, 2, 3):
        if (among := np.flatnonzero(depths == depth)).size:
            ratios[f"perplexity_turn_{depth}"] = Ratio(
                sums[among], tokens[among], tuple(groups[at] for at in among), exponential=True
            )
    for name, (first, end) in POSITIONS.items():
        parts = [part[first:end] for part in losses]
        # A reply that is shorter is left out, so that the number of samples is true.
        if among := [at for at, part in enumerate(parts) if len(part)]:
            ratios[f"perplexity_token_{name}"] = Ratio(
                _sums([parts[at] for at in among]),
                _array([len(parts[at]) for at in among]),
                tuple(groups[at] for at in among),
                exponential=True,
            )
    return ratios | {
        "loss": Ratio(sums, tokens, groups),
        "bits_per_byte": Ratio(text / math.log(2), sizes, groups),
    }


def long_figures(
    samples: Sequence[Sample], rolling: Sequence[Losses], strided: Sequence[Losses]
) -> dict[str, Ratio]:
    """Return the perplexity of replies in conversations that are longer than the window.

        rolling   as a chat sees them: the oldest exchanges have left the window
        strided   as a text: windows that begin half a window after one another, each token scored
                  in the first window that has it, so with at least half a window before it

    Args:
        rolling: Losses of each conversation's last reply.
        strided: Losses of the same tokens.
    """
    groups = tuple(sample.group for sample in samples)
    tokens = _array([len(part) for part in rolling])
    return {
        "perplexity_rolling": Ratio(_sums(rolling), tokens, groups, exponential=True),
        "perplexity_strided": Ratio(_sums(strided), tokens, groups, exponential=True),
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
) -> dict[str, Statistic]:
    """Return how often, and by how much, the model prefers the chosen reply.

        accuracy                     share of pairs with mean log p(chosen) > mean log p(rejected)
        margin                       mean difference of these two, in nats per token
        accuracy, summed             the same share by Σ log p, which favours the shorter reply
        accuracy at equal length     a in the least-squares line a + b · x through the pairs'
                                     outcomes (1 or 0), where x is the chosen reply's excess in
                                     tokens, divided by the longer reply's
        accuracy of similar length   accuracy among pairs whose replies differ by less than 20 %
                                     in tokens; absent if there is no such pair
        longer reply preferred       share of pairs of different length whose longer reply has the
                                     higher mean log p: above 0.5 if length outweighs quality
        margin in log odds           mean difference of log P/(1 - P) with log P = mean log p, which
                                     ORPO trains

    Accuracy is also given for each source, if there are several. A tie counts as wrong. The
    end-of-turn token is part of a reply.

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
    sources = np.array([pair.source for pair in pairs])
    # With a single source this would be the accuracy once more, so it is not shown.
    by_source: dict[str, Statistic] = {
        f"preference_accuracy/{source}": share(margins > 0, sources == source)
        for source in sorted(set(sources))
    }
    names = tuple(map(str, groups))
    ratios: dict[str, Statistic] = {
        "preference_accuracy": share(margins > 0, everywhere),
        **(by_source if len(by_source) > 1 else {}),
        "preference_margin": Ratio(margins, np.ones_like(margins), names),
        "preference_accuracy_sum": share(sums > 0, everywhere),
    }
    relative = excess / np.maximum(chosen_lengths, rejected_lengths)
    if np.ptp(relative) > 0:  # a line needs two different places
        wins = (margins > 0).astype(np.float64)
        ratios["preference_accuracy_controlled"] = Intercept(wins, relative, names)
    if similar.any():
        ratios["preference_accuracy_similar"] = share(margins > 0, similar)
    if excess.any():
        # Same sign: the reply with the higher mean log p is also the longer one.
        ratios["preference_longer"] = share(margins * excess > 0, excess != 0)
    log_odds = _log_odds(-_means(chosen)) - _log_odds(-_means(rejected))
    ratios["preference_log_odds"] = Ratio(log_odds, np.ones_like(log_odds), names)
    return ratios


@dataclass(frozen=True, slots=True)
class CalibrationPoint:
    """Pairs in which a model is about equally sure which reply is the better one."""

    confidence: float
    """Mean of σ(|difference in log odds|), from 0.5 to 1."""
    accuracy: Estimate
    """Share of the pairs in which it is right."""


def calibration(
    pairs: Sequence[Pair], chosen: Sequence[Losses], rejected: Sequence[Losses], seed: int
) -> tuple[CalibrationPoint, ...]:
    """Return how often a model is right, by how sure it is; none with fewer than 2 · `BINS` pairs.

    Read as a probability that the chosen reply is the better one, σ of the difference in log odds
    is what ORPO trains. A calibrated model is right as often as it is sure.
    """
    if len(pairs) < 2 * BINS:
        return ()
    log_odds = _log_odds(-_means(chosen)) - _log_odds(-_means(rejected))
    confidence = 1 / (1 + np.exp(-np.abs(log_odds)))
    points: list[CalibrationPoint] = []
    # Stable, so that pairs of the same confidence fall into the same parts on every machine.
    for part in np.array_split(np.argsort(confidence, kind="stable"), BINS):
        right = (log_odds[part] > 0).astype(np.float64)
        groups = tuple(pairs[at].group for at in part)
        accuracy = estimate(Ratio(right, np.ones_like(right), groups), seed)
        points.append(CalibrationPoint(float(confidence[part].mean()), accuracy))
    return tuple(points)


def _log_odds(logp: FloatArray) -> FloatArray:
    """Return log P/(1 - P) for log P; at log P = 0, as in training, that of -1e-9."""
    logp = np.minimum(logp, -1e-9)
    return logp - np.log(-np.expm1(logp))


def estimates(statistics: Mapping[str, Statistic], seed: int) -> dict[str, Estimate]:
    """Return each figure with its interval."""
    return {name: estimate(statistic, seed) for name, statistic in statistics.items()}


def differences(
    statistics: Mapping[str, Statistic], others: Mapping[str, Statistic], seed: int
) -> dict[str, Estimate]:
    """Return each figure minus the other model's on the same samples, with paired intervals."""
    return {
        name: difference(statistic, others[name], seed) for name, statistic in statistics.items()
    }


# float32 losses are added in float64: over a long reply float32 would lose the last digits.
def _sums(losses: Sequence[Losses]) -> FloatArray:
    return _array([part.sum(dtype=np.float64) for part in losses])


def _means(losses: Sequence[Losses]) -> FloatArray:
    return _array([part.mean(dtype=np.float64) for part in losses])


def _array(values: Sequence[float]) -> FloatArray:
    return np.array(values, dtype=np.float64)

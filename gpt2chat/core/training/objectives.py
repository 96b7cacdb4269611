"""Compute the losses of SFT and ORPO on packed sequences.

The loss of an optimizer step is a mean over all its sequences, on all processes. So the sum of each
sequence is divided by the counts of the whole step, and the results are added up.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gpt2chat.core.config.training import NllScope, TrainOn
from gpt2chat.core.model.losses import log_odds, odds_ratio_losses, segment_means
from gpt2chat.core.model.packing import Ints, PackedSequence, SequenceShape, lay_out

SHAPE_MULTIPLE = 128
"""Tokens, and trained tokens, of a padded sequence are a multiple of this."""


class Objective(Protocol):
    """Decides which tokens of a sequence are trained, and computes the loss."""

    def untrained_prefix(self, prompt_lengths: Ints, training: bool) -> Ints:
        """Return how many tokens at the start of each sample are not trained. Shape (samples,)."""
        ...

    def loss_inputs(self, sequence: PackedSequence, prompt_lengths: Ints) -> dict[str, Tensor]:
        """Return the tensors that `loss` needs in addition to the sequence.

        One of them is `counts`: how many tokens, or pairs, of this sequence a mean is taken over.
        """
        ...

    def loss(
        self, logps: Tensor, sequence: Mapping[str, Any], counts: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what a sequence adds to the step's loss, and to the step's other metrics.

        Args:
            logps: Log-probabilities of the sequence's trained tokens, float32. Shape (tokens,).
            sequence: Fields of PackedSequence, and what `loss_inputs` returned.
            counts: Sum of `counts` over all sequences of the step.
        """
        ...


def lay_out_for(
    objective: Objective,
    ids: Ints,
    lengths: Ints,
    prompt_lengths: Ints,
    shape: SequenceShape | None,
    *,
    training: bool,
) -> dict[str, Any]:
    """Return the fields of a packed sequence and what the objective adds to them."""
    sequence = lay_out(ids, lengths, objective.untrained_prefix(prompt_lengths, training), shape)
    return {**vars(sequence), **objective.loss_inputs(sequence, prompt_lengths)}


def shape_for(objective: Objective, sequences: Iterable[tuple[Ints, Ints]]) -> SequenceShape:
    """Return the smallest shape that all sequences of a run fit in.

    Args:
        sequences: Lengths and prompt lengths of each sequence's samples.
    """
    longest, most_tokens, most_trained = 1, 1, 0
    tokens_and_samples: list[tuple[int, int]] = []
    for lengths, prompts in sequences:
        untrained = np.maximum(objective.untrained_prefix(prompts, True), 1)
        tokens_and_samples.append((int(lengths.sum()), len(lengths)))
        longest = max(longest, int(lengths.max(initial=1)))
        most_tokens = max(most_tokens, int(lengths.sum()))
        most_trained = max(most_trained, int((lengths - untrained).sum()))
    # Multiples suit the tiles of matrix products on a GPU.
    tokens = -(-most_tokens // SHAPE_MULTIPLE) * SHAPE_MULTIPLE
    # Slots for the samples and for pieces of padding, an even number because pairs take two.
    slots = [count - (used - tokens) // longest for used, count in tokens_and_samples]
    samples = max(slots, default=2)
    return SequenceShape(
        tokens=tokens,
        samples=samples + samples % 2,
        trained_tokens=-(-most_trained // SHAPE_MULTIPLE) * SHAPE_MULTIPLE,
        longest=longest,
    )


@dataclass(frozen=True, slots=True)
class SftObjective:
    """SFT: the mean of -log p over the trained tokens.

    L = -Σ log p(token) / trained tokens of the step
    """

    train_on: TrainOn = "reply"
    """Train the reply or all tokens. Validation uses the reply either way, so that runs compare."""

    def untrained_prefix(self, prompt_lengths: Ints, training: bool) -> Ints:
        """Leave the prompts untrained, unless all tokens are trained."""
        everything = training and self.train_on == "all"
        return np.zeros_like(prompt_lengths) if everything else prompt_lengths

    def loss_inputs(self, sequence: PackedSequence, prompt_lengths: Ints) -> dict[str, Tensor]:
        """Return the number of trained tokens."""
        return {"counts": sequence.weights.sum()[None]}

    def loss(
        self, logps: Tensor, sequence: Mapping[str, Any], counts: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sequence's share of the loss; there are no other metrics."""
        return -(logps * sequence["weights"]).sum() / counts[0], {}


@dataclass(frozen=True, slots=True)
class OrpoObjective:
    """ORPO. Samples 2i and 2i + 1 of a sequence are chosen and rejected.

        L = NLL(chosen) + β · mean over pairs of -log σ(log odds(chosen) - log odds(rejected))

    Source:
        Hong, Lee and Thorne (2024), ORPO, arXiv:2403.07691, equation 6.
    """

    beta: float
    nll_scope: NllScope

    def untrained_prefix(self, prompt_lengths: Ints, training: bool) -> Ints:
        """Leave the prompts untrained, except those of chosen replies if `nll_scope` is "full"."""
        if self.nll_scope == "response":
            return prompt_lengths
        chosen = np.arange(len(prompt_lengths)) % 2 == 0
        return np.where(chosen, 0, prompt_lengths)

    def loss_inputs(self, sequence: PackedSequence, prompt_lengths: Ints) -> dict[str, Tensor]:
        """Return the counts (chosen tokens, then pairs) and the weights without prompt tokens."""
        prompts = torch.from_numpy(np.append(prompt_lengths, 0))
        # A position in `logit_positions` is one before the token that its logits predict.
        in_reply = (
            sequence.position_ids[0, sequence.logit_positions] + 1 >= prompts[sequence.segments]
        )
        pairs = torch.tensor(float(len(prompt_lengths) // 2))
        chosen = sequence.weights[sequence.segments % 2 == 0].sum()
        return {
            "reply_weights": sequence.weights * in_reply,
            "counts": torch.stack([chosen, pairs]),
        }

    def loss(
        self, logps: Tensor, sequence: Mapping[str, Any], counts: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sequence's share of the loss and of the metrics in docs/training.md."""
        segments, slots = sequence["segments"], len(sequence["cu_seq_lens_q"]) - 1
        means, sizes = segment_means(logps, sequence["reply_weights"], segments, slots)
        real = sizes[0::2] > 0  # slots of padding have no trained token
        # An empty slot gets a value whose loss and gradient are finite, and weight 0.
        chosen, rejected = (torch.where(real, means[side::2], -1.0) for side in (0, 1))

        def mean(values: Tensor) -> Tensor:
            return torch.where(real, values, 0.0).sum() / counts[1]

        nll = -(logps * sequence["weights"] * (segments % 2 == 0)).sum() / counts[0]
        odds = mean(odds_ratio_losses(chosen, rejected))
        return nll + self.beta * odds, {
            "nll": nll,
            "odds_ratio_loss": odds,
            "log_odds_ratio": mean(log_odds(chosen) - log_odds(rejected)),
            "chosen_logp": mean(chosen),
            "rejected_logp": mean(rejected),
            "accuracy": mean((chosen > rejected).float()),
            "margin": mean(chosen - rejected),
        }

"""The losses of SFT and ORPO on packed rows.

The loss of an optimizer step is a mean over all its rows, on all processes. So each row's sum is
divided by the counts of the whole step, and the results are added up.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gpt2chat.core.config.training import NllScope, TrainOn
from gpt2chat.core.model.losses import log_odds, odds_ratio_losses, segment_means
from gpt2chat.core.model.packing import Ints, PackedRow, RowShape, lay_out, row_shape


class Objective(Protocol):
    """Decides which tokens of a row are trained, and computes the loss."""

    def untrained_prefix(self, prompt_lengths: Ints, training: bool) -> Ints:
        """Return how many tokens at the start of each sample are not trained. Shape (samples,)."""
        ...

    def loss_inputs(self, row: PackedRow, prompt_lengths: Ints) -> dict[str, Tensor]:
        """Return the tensors that `loss` needs in addition to the row.

        One of them is `counts`: the number of things that the loss is a mean over, in this row.
        """
        ...

    def loss(
        self, logps: Tensor, row: Mapping[str, Any], counts: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what a row adds to the step's loss, and to the step's other metrics.

        Args:
            logps: Log-probabilities of the row's trained tokens, float32. Shape (tokens,).
            row: Fields of PackedRow, and what `loss_inputs` returned.
            counts: Sum of `counts` over all rows of the step.
        """
        ...


def lay_out_for(
    objective: Objective,
    ids: Ints,
    lengths: Ints,
    prompt_lengths: Ints,
    shape: RowShape | None,
    *,
    training: bool,
) -> dict[str, Any]:
    """Return the fields of a packed row and what the objective adds to them."""
    row = lay_out(ids, lengths, objective.untrained_prefix(prompt_lengths, training), shape)
    return {**vars(row), **objective.loss_inputs(row, prompt_lengths)}


def shape_for(objective: Objective, rows: Iterable[tuple[Ints, Ints]]) -> RowShape:
    """Return the smallest shape that all rows of a run fit in.

    Args:
        rows: Lengths and prompt lengths of each row's samples.
    """
    sizes = [(lengths, objective.untrained_prefix(prompts, True)) for lengths, prompts in rows]
    longest = max((int(lengths.max(initial=1)) for lengths, _ in sizes), default=1)
    return row_shape(sizes, longest)


@dataclass(frozen=True, slots=True)
class SftObjective:
    """SFT: the mean of -log p over the trained tokens.

    L = -Σ log p(token) / trained tokens of the step
    """

    train_on: TrainOn = "reply"
    """Train the reply or all tokens. Validation uses the reply either way, so that runs compare."""

    def untrained_prefix(self, prompt_lengths: Ints, training: bool) -> Ints:
        """See Objective."""
        everything = training and self.train_on == "all"
        return np.zeros_like(prompt_lengths) if everything else prompt_lengths

    def loss_inputs(self, row: PackedRow, prompt_lengths: Ints) -> dict[str, Tensor]:
        """Return the number of trained tokens."""
        return {"counts": row.weights.sum()[None]}

    def loss(
        self, logps: Tensor, row: Mapping[str, Any], counts: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See Objective."""
        return -(logps * row["weights"]).sum() / counts[0], {}


@dataclass(frozen=True, slots=True)
class OrpoObjective:
    """ORPO. Samples 2i and 2i + 1 of a row are chosen and rejected.

        L = NLL(chosen) + β · mean over pairs of -log σ(log odds(chosen) - log odds(rejected))

    Source:
        Hong, Lee and Thorne (2024), ORPO, arXiv:2403.07691, equation 6.
    """

    beta: float
    nll_scope: NllScope

    def untrained_prefix(self, prompt_lengths: Ints, training: bool) -> Ints:
        """See Objective."""
        if self.nll_scope == "response":
            return prompt_lengths
        chosen = np.arange(len(prompt_lengths)) % 2 == 0
        return np.where(chosen, 0, prompt_lengths)

    def loss_inputs(self, row: PackedRow, prompt_lengths: Ints) -> dict[str, Tensor]:
        """Return the counts (chosen tokens, then pairs) and the weights without prompt tokens."""
        prompts = torch.from_numpy(np.append(prompt_lengths, 0))
        # `kept` holds where logits are taken: one position before the token that they predict.
        in_reply = row.position_ids[0, row.kept] + 1 >= prompts[row.segments]
        pairs = torch.tensor(float(len(prompt_lengths) // 2))
        chosen = row.weights[row.segments % 2 == 0].sum()
        return {"reply_weights": row.weights * in_reply, "counts": torch.stack([chosen, pairs])}

    def loss(
        self, logps: Tensor, row: Mapping[str, Any], counts: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See Objective."""
        segments, slots = row["segments"], len(row["cu_seq_lens_q"]) - 1
        means, sizes = segment_means(logps, row["reply_weights"], segments, slots)
        real = sizes[0::2] > 0
        # An empty slot gets a value whose loss and gradient are finite, and weight 0.
        chosen, rejected = (torch.where(real, means[side::2], -1.0) for side in (0, 1))

        def mean(values: Tensor) -> Tensor:
            return torch.where(real, values, 0.0).sum() / counts[1]

        nll = -(logps * row["weights"] * (segments % 2 == 0)).sum() / counts[0]
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

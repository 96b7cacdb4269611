"""Keep the weights as they are when the loss or gradient of a step is not finite."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gpt2chat.core.errors import DataError

MOST_NAMES = 20
"""Most samples that an error names."""


@dataclass(slots=True)
class _Step:
    number: int
    sequences: list[tuple[Tensor, Any]] = field(default_factory=list[tuple[Tensor, Any]])
    """Each sequence's loss, and the items in it."""
    bad: Tensor | None = None


class Guard:
    """Checks each step's loss and gradient norm before the optimizer uses them.

    Reading a number from a GPU waits for all its work. So a flag on the device makes fused AdamW
    skip its update from the first bad step on; `check`, which waits, runs only now and then.

    Args:
        blame: Returns the ids of a sequence's samples whose log-probabilities are not finite.
        names: Returns the ids of all samples of a sequence.
        over_processes: Sums a tensor over the processes of the run.
        of_all: Concatenates the lists of all processes. All of them call it at the same step.
    """

    def __init__(
        self,
        blame: Callable[[Any], Sequence[str]],
        names: Callable[[Any], Sequence[str]],
        over_processes: Callable[[Tensor], Tensor],
        of_all: Callable[[list[Any]], list[Any]],
    ):
        self._blame = blame
        self._names = names
        self._over_processes = over_processes
        self._of_all = of_all
        self._steps: list[_Step] = []
        self._sticky: Tensor | None = None

    def add_loss(self, number: int, loss: Tensor, sequence: Any) -> None:
        """Add the loss of one sequence of step `number`."""
        if not self._steps or self._steps[-1].number != number:
            self._steps.append(_Step(number))
        # Detached: the graphs of all steps up to the next `check` would stay in memory.
        self._steps[-1].sequences.append((loss.detach(), sequence))

    def stop(self, norm: Tensor, optimizer: Any) -> None:
        """Make the optimizer leave the weights alone if this step, or an earlier one, is bad.

        Args:
            norm: Norm of the gradient over all processes.
            optimizer: PyTorch's fused AdamW. It skips its update if `found_inf` is 1, which is how
                torch.amp.GradScaler stops it too.
        """
        step = self._steps[-1]
        losses = torch.stack([loss for loss, _ in step.sequences])
        bad = (~(torch.isfinite(losses).all() & torch.isfinite(norm))).float()
        step.bad = self._over_processes(bad).clamp(max=1)
        self._sticky = step.bad if self._sticky is None else torch.maximum(self._sticky, step.bad)
        optimizer.found_inf = self._sticky

    def check(self) -> None:
        """Wait for the device, and end the run if a step was bad.

        Raises:
            DataError: A step was bad. The weights are as they were before it.
        """
        steps, self._steps = self._steps, []
        flags = [step.bad for step in steps if step.bad is not None]
        if not flags or not torch.stack(flags).any():
            return
        step = next(step for step in steps if step.bad is not None and step.bad > 0)
        sequences = [
            (loss.item(), sequence) for loss, sequence in step.sequences if not torch.isfinite(loss)
        ]
        # One sequence of each process is enough: finding its bad samples runs them all again.
        bad = self._of_all(
            [
                (loss, self._blame(sequence) or self._names(sequence))
                for loss, sequence in sequences[:1]
            ]
        )
        where = f"at step {step.number}; the weights are as they were"
        if not bad:
            names = self._of_all(
                [name for _, sequence in step.sequences for name in self._names(sequence)]
            )
            raise DataError(
                f"The gradient is not finite {where}. Samples of that step: {_listed(names)}. "
                'Try a lower `lr`, or `precision="fp32"`.',
                setting="lr",
            )
        names = [name for _, samples in bad for name in samples]
        raise DataError(f"The loss is {bad[0][0]} {where}. Samples: {_listed(names)}.")


def _listed(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more

"""Compare ways to compute the log-probabilities of trained tokens, forward and backward.

    python benchmarks/head.py
    python benchmarks/head.py --tokens 8192 --widths 768 --repeats 21

The ways take turns on the same hidden states. A step computes the loss and its gradients with
respect to hidden states and weights, in bf16 if the device is fast at it. Figures are medians, with
the lowest and highest; `error` is the difference of the weights' gradient from float64's, relative
to it. Runs on a GPU if there is one, and then prints the peak memory of a step too.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from page import commit, cpu_name, markdown
from torch import Tensor

from gpt2chat.core.model.device import device_name, pick_autocast, pick_device
from gpt2chat.core.model.losses import head_logps, token_logps
from gpt2chat.core.text.tokens import VOCAB

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return -token_logps(hidden @ weight.t(), targets).sum()


def ours(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return -head_logps(hidden, weight, targets).sum()


def fused(reduction: str) -> Loss:
    """Return PyTorch's own loss, in pieces that it chooses. ORPO needs the loss of each token."""
    options: Any = torch.nn.LinearCrossEntropyOptions()  # pyright: ignore[reportAttributeAccessIssue]

    def loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = F.linear_cross_entropy(  # pyright: ignore[reportAttributeAccessIssue]
            hidden, weight, targets, reduction=reduction, options=options
        )
        return found.float().sum()

    return loss


def ways() -> dict[str, Loss]:
    found: dict[str, Loss] = {
        "gpt2chat head_logps": ours,
        "logits, then cross_entropy": plain,
    }
    if hasattr(F, "linear_cross_entropy"):  # from torch 2.13 on
        found["linear_cross_entropy, each token"] = fused("none")
        found["linear_cross_entropy, sum"] = fused("sum")
    return found


def drawn(tokens: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return random hidden states, head weights and targets, of GPT-2's magnitude."""
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=random)
    weight = torch.randn(VOCAB, width, generator=random) * 2 / width**0.5
    targets = torch.randint(0, VOCAB, (tokens,), generator=random)
    return hidden.to(device), weight.to(device), targets.to(device)


def step(loss: Loss, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: Any) -> Tensor:
    """Return the gradient with respect to the weights."""
    leaves = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    value = loss(leaves[0].to(dtype), leaves[1].to(dtype), targets)
    return torch.autograd.grad(value, leaves)[1]


def seconds(device: torch.device, run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def measured(tokens: int, width: int, repeats: int, device: torch.device, dtype: Any) -> str:
    """Return the table of one size."""
    given = drawn(tokens, width, device)
    found = ways()
    hidden, weight, targets = given
    exact = step(plain, hidden.double(), weight.double(), targets, torch.float64).float()
    errors = {
        name: float((step(loss, *given, dtype) - exact).norm() / exact.norm())
        for name, loss in found.items()
    }
    times: dict[str, list[float]] = {name: [] for name in found}
    peaks: dict[str, str] = dict.fromkeys(found, "-")
    for _ in range(repeats):
        for name, loss in found.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            times[name].append(seconds(device, lambda loss=loss: step(loss, *given, dtype)))
            if device.type == "cuda":
                peaks[name] = f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f}"
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    first = medians["gpt2chat head_logps"]
    rows = [("", "ms", "to gpt2chat", "error", "peak, GiB")]
    for name, taken in times.items():
        spread = f"{1e3 * medians[name]:.1f} ({1e3 * min(taken):.1f}-{1e3 * max(taken):.1f})"
        ratio = f"{medians[name] / first:.2f}×"
        rows.append((name, spread, ratio, f"{errors[name]:.1e}", peaks[name]))
    return markdown(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tokens", type=int, default=2048, help="Trained tokens of a step.")
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 768])
    parser.add_argument("--repeats", type=int, default=7)
    asked = parser.parse_args()
    device = pick_device("auto")
    dtype = torch.bfloat16 if pick_autocast("auto", device) else torch.float32
    where = cpu_name() if device.type == "cpu" else device_name(device)
    print(f"{where}; torch {torch.__version__}, gpt2chat {commit()}, {dtype}.")
    for width in asked.widths:
        print(f"\n{asked.tokens} tokens of width {width}, vocabulary {VOCAB:,}:\n")
        print(measured(asked.tokens, width, asked.repeats, device, dtype))


if __name__ == "__main__":
    main()

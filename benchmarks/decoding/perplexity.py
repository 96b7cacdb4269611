"""Measure what a precision costs in perplexity, on the same held-out replies as float32."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpt2chat.core.config.chat import ChatPrecision
from gpt2chat.core.config.evaluation import EvalConfig
from gpt2chat.core.errors import HardwareError
from gpt2chat.core.evaluation.figures import differences, estimates, reply_figures
from gpt2chat.core.evaluation.heldout import Material, read_material
from gpt2chat.core.evaluation.scoring import Losses, Scored, token_losses
from gpt2chat.core.evaluation.statistics import Estimate
from gpt2chat.core.generation.generate import Generator
from gpt2chat.core.model.load import load_model
from gpt2chat.core.text.tokens import WINDOW

FLOAT32 = "float32"
PRECISIONS: tuple[ChatPrecision, ...] = ("bf16", "int8")


@dataclass(frozen=True, slots=True)
class Cost:
    """A precision's perplexity, and what it adds to float32's on the same replies."""

    perplexity: Estimate
    added: Estimate


def costs(model: str, limit: int, device: torch.device) -> dict[str, Cost]:
    """Return each precision's perplexity on replies of the bundled sample's validation split.

    Args:
        limit: At most so many replies.
    """
    material = held_out(limit)
    scored: list[Scored] = [(ids.ids, ids.prompt_length) for ids in material.reply_ids]
    losses = {FLOAT32: float32_losses(model, device, scored)}
    for precision in PRECISIONS:
        of_it = generator_losses(model, device, precision, scored)
        if of_it is not None:
            losses[precision] = of_it
    ratios = {name: reply_figures(material.replies, values) for name, values in losses.items()}
    return {
        name: Cost(
            estimates(figures, seed=0)["perplexity"],
            differences(figures, ratios[FLOAT32], seed=0)["perplexity"],
        )
        for name, figures in ratios.items()
    }


def held_out(limit: int) -> Material:
    """Return held-out replies of the bundled sample."""
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        command = [sys.executable, "-m", "gpt2chat", "prepare", "--sample", "--out", str(data)]
        subprocess.run(command, check=True, capture_output=True)
        settings = EvalConfig(limit=limit, preferences=False, generations=0)
        return read_material(settings, data, WINDOW)


def float32_losses(name: str, device: torch.device, scored: Sequence[Scored]) -> list[Losses]:
    """Return -log p of the scored tokens as `gpt2chat eval` computes it."""
    model: Any = load_model(name)
    return token_losses(model.to(device).eval(), scored, lambda done, total: None)


def generator_losses(
    name: str, device: torch.device, precision: ChatPrecision, scored: Sequence[Scored]
) -> list[Losses] | None:
    """Return -log p of the scored tokens as `Generator` computes it in a precision.

    Args:
        scored: Token ids of each sequence, and the first of them whose loss is wanted.

    Returns:
        One array for each sequence, shape (tokens - first wanted,); None where the device has not
        that precision.
    """
    try:
        generator = Generator(load_model(name), device, precision)
    except HardwareError:
        return None
    return [-generator.logprobs(ids)[first - 1 :].cpu().numpy() for ids, first in scored]

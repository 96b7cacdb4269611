"""`evaluate`: one or more models to figures on the same held-out samples."""

import datetime
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2chat import __version__
from gpt2chat.core.config.evaluation import EvalConfig
from gpt2chat.core.errors import CheckpointError, StorageError
from gpt2chat.core.evaluation.figures import (
    differences,
    estimates,
    preference_figures,
    reference_figures,
    reply_figures,
)
from gpt2chat.core.evaluation.heldout import SPLIT, Material, SampleCounts, read_material
from gpt2chat.core.evaluation.replies import Replies, measure_replies
from gpt2chat.core.evaluation.scoring import Losses, Scored, token_losses
from gpt2chat.core.evaluation.speed import Speed, measure_speed
from gpt2chat.core.evaluation.statistics import LEVEL, RESAMPLES, Estimate, Ratio
from gpt2chat.core.files import write_text
from gpt2chat.core.generation.generate import Generator
from gpt2chat.core.model.device import device_name, pick_autocast, pick_device
from gpt2chat.core.model.flops import flops_per_token, parameters
from gpt2chat.core.model.load import check_folder, download, load_model
from gpt2chat.core.model.lora import base_of
from gpt2chat.core.runs import local_folder

RESULT_FILE = "eval.json"

Progress = Callable[[int, int, str], None]
"""Called with what is done, all there is to do, and what it is."""


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """What was measured of one model."""

    model: str
    parameters: int
    flops_per_token: int
    """At a context of `flops_context` tokens, forward pass, logits included."""
    flops_context: int
    figures: dict[str, Estimate]
    """Keys are those of `figures.FIGURES`."""
    speed: Speed | None
    replies: Replies | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The figures of the first model minus those of another, paired by sample."""

    model: str
    against: str
    figures: dict[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of `gpt2chat eval`; `eval.json`."""

    models: tuple[ModelResult, ...]
    differences: tuple[Difference, ...]
    data: Path
    split: str
    samples: SampleCounts
    notes: tuple[str, ...]
    """What could not be measured as asked, and why."""
    device: str
    precision: str
    limit: int | None
    seed: int
    interval: str
    versions: dict[str, str]
    seconds: float
    finished: str
    """Date and time, UTC, ISO 8601."""
    written: Path


def evaluate(settings: EvalConfig, on_progress: Progress) -> Evaluation:
    """Measure the model, and those it is compared with, and write the result.

    Raises:
        DataError: The shards are missing, changed or empty, or longer than a model's window.
        CheckpointError, NetworkError: A model cannot be had, or its losses are not finite.
        HardwareError: The device or its precision is not there.
        StorageError: The result cannot be written.
    """
    started = time.perf_counter()
    device = pick_device(settings.device)
    autocast = pick_autocast(settings.precision, device)
    path = result_path(settings)
    require_writable(path)
    names = (settings.model, *settings.against)
    material = read_material(settings, min(read_window(name) for name in names))
    results: list[ModelResult] = []
    ratios: list[dict[str, Ratio]] = []
    for name in names:
        result, found = _measure(name, settings, material, device, autocast, on_progress)
        results.append(result)
        ratios.append(found)
    evaluation = Evaluation(
        models=tuple(results),
        differences=_differences(names, ratios, settings.seed),
        data=settings.data,
        split=SPLIT,
        samples=material.counts(),
        notes=material.notes,
        device=device_name(device),
        precision="bf16 autocast" if autocast else "fp32",
        limit=settings.limit,
        seed=settings.seed,
        interval=f"{LEVEL} % interval, {RESAMPLES:,} bootstrap samples of whole groups (trees)",
        versions={
            "gpt2chat": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        seconds=time.perf_counter() - started,
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        written=path,
    )
    write_text(path, json.dumps(asdict(evaluation), indent=2, default=str) + "\n")
    return evaluation


def _differences(
    names: Sequence[str], ratios: Sequence[dict[str, Ratio]], seed: int
) -> tuple[Difference, ...]:
    return tuple(
        Difference(model=names[0], against=name, figures=differences(ratios[0], other, seed))
        for name, other in zip(names[1:], ratios[1:], strict=True)
    )


def _measure(
    name: str,
    settings: EvalConfig,
    material: Material,
    device: torch.device,
    autocast: bool,
    on_progress: Progress,
) -> tuple[ModelResult, dict[str, Ratio]]:
    def reporting(what: str) -> Callable[[int, int], None]:
        return lambda done, total: on_progress(done, total, f"{name}: {what}")

    model = load_model(name, settings.seed)
    generator = Generator(model, device)
    ratios = measure_figures(model, material, name, reporting("tokens scored"), autocast=autocast)
    speed = measure_speed(model, device, reporting("speed")) if settings.speed else None
    replies = None
    if material.prompts:
        report = reporting("replies")
        replies = measure_replies(generator, material.prompts, settings.seed, report)
    context = model.config.n_positions
    result = ModelResult(
        model=name,
        parameters=parameters(model),
        flops_per_token=int(flops_per_token(model.config, context)),
        flops_context=context,
        figures=estimates(ratios, settings.seed),
        speed=speed,
        replies=replies,
    )
    return result, ratios


def measure_figures(
    model: GPT2LMHeadModel,
    material: Material,
    name: str,
    on_progress: Callable[[int, int], None],
    *,
    autocast: bool,
) -> dict[str, Ratio]:
    """Return all figures of one model; each different sequence is computed once.

    Raises:
        CheckpointError: A loss is not finite.
    """
    kinds: list[list[Scored]] = [
        [(ids.ids, ids.prompt_length) for ids in material.reply_ids],
        [(ids, 1) for ids in material.reference_ids],
        [(ids.ids, ids.prompt_length) for ids in material.chosen_ids],
        [(ids.ids, ids.prompt_length) for ids in material.rejected_ids],
    ]
    everything = [sequence for kind in kinds for sequence in kind]
    if not everything:
        return {}
    losses = iter(token_losses(model, everything, on_progress, autocast=autocast))
    replies, reference, chosen, rejected = ([next(losses) for _ in kind] for kind in kinds)
    check_finite(name, [*replies, *reference, *chosen, *rejected])
    ratios: dict[str, Ratio] = {}
    if replies:
        ratios |= reply_figures(material.replies, replies)
    if reference:
        ratios |= reference_figures(material.reference, reference)
    if chosen:
        ratios |= preference_figures(material.pairs, chosen, rejected)
    return ratios


def check_finite(name: str, losses: Sequence[Losses]) -> None:
    """Refuse a model whose weights give no probabilities.

    Raises:
        CheckpointError: A loss is infinite or not a number.
    """
    if not all(np.isfinite(part).all() for part in losses):
        raise CheckpointError(
            f"--model {name} gives losses that are not finite: its weights are damaged. "
            "Train it again, or name another model."
        )


def read_window(name: str) -> int:
    """Return a model's number of positions, so that no model is missed after a long measurement.

    Raises:
        CheckpointError: The folder is no GPT-2 model.
        NetworkError: The name cannot be had from the Hub.
    """
    folder = local_folder(name) or download(name)
    base = base_of(folder, name)
    if base is not None:
        return read_window(base)
    check_folder(folder, name)
    return GPT2Config.from_pretrained(str(folder)).n_positions


def result_path(settings: EvalConfig) -> Path:
    """Return the file to write: --out, else in the model's folder, else in the current one.

    The bundled model's folder and those that cannot be written are left alone.
    """
    if settings.out is not None:
        return settings.out / RESULT_FILE if settings.out.is_dir() else settings.out
    folder = Path(settings.model)
    own = settings.model != "starter" and folder.is_dir() and os.access(folder, os.W_OK)
    return folder / RESULT_FILE if own else Path(RESULT_FILE)


def require_writable(path: Path) -> None:
    """Refuse before the measurement what could not be written after it.

    Raises:
        StorageError: The folder, or the first above it that exists, cannot be written.
    """
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise StorageError(f"Cannot write {path}: {folder} is no folder of your own. Give --out.")

"""Measure one or more models on the same held-out samples."""

import datetime
import time
from collections.abc import Callable

import numpy as np
import torch
import transformers
from transformers import GPT2LMHeadModel

from gpt2chat import __version__
from gpt2chat.core.config.evaluation import EvalConfig
from gpt2chat.core.errors import CheckpointError
from gpt2chat.core.evaluation.figures import (
    differences,
    estimates,
    preference_figures,
    reference_figures,
    reply_figures,
)
from gpt2chat.core.evaluation.heldout import SPLIT, Material, read_material
from gpt2chat.core.evaluation.replies import measure_replies
from gpt2chat.core.evaluation.results import (
    Difference,
    Evaluation,
    ModelResult,
    require_writable,
    result_path,
    write_result,
)
from gpt2chat.core.evaluation.scoring import Losses, Scored, token_losses
from gpt2chat.core.evaluation.speed import measure_speed
from gpt2chat.core.evaluation.statistics import LEVEL, RESAMPLES, Ratio
from gpt2chat.core.generation.generate import Generator
from gpt2chat.core.model.device import device_name, pick_autocast, pick_device
from gpt2chat.core.model.flops import flops_per_token, parameters
from gpt2chat.core.model.load import load_model
from gpt2chat.core.model.names import resolve_model

Progress = Callable[[int, int, str], None]
"""Called with the amount done, the amount there is to do, and the name of that work."""


def evaluate(settings: EvalConfig, on_progress: Progress | None = None) -> Evaluation:
    """Measure the model, and those it is compared with, and write the result.

    It may run in any thread. Models are loaded one at a time.

    Raises:
        DataError: The shards are missing or changed, or hold no validation rows.
        CheckpointError, NetworkError: A model cannot be loaded, its window is shorter than the
            samples, or its losses are not finite.
        HardwareError: This machine lacks the device or the precision.
        StorageError: The result cannot be written.
    """
    started = time.perf_counter()
    device = pick_device(settings.device)
    autocast = pick_autocast(settings.precision, device)
    path, path_note = result_path(settings)
    require_writable(path)
    names = (settings.model, *settings.against)
    # All models are found before the first is measured, so that a wrong name fails at once.
    material = read_material(settings, min(resolve_model(name).window for name in names))
    results: list[ModelResult] = []
    ratios: list[dict[str, Ratio]] = []
    for name in names:
        result, figures = _measure(name, settings, material, device, autocast, on_progress)
        results.append(result)
        ratios.append(figures)
    evaluation = Evaluation(
        settings=settings,
        models=tuple(results),
        differences=tuple(
            Difference(
                model=names[0], against=name, figures=differences(ratios[0], other, settings.seed)
            )
            for name, other in zip(names[1:], ratios[1:], strict=True)
        ),
        split=SPLIT,
        data_sha256=material.data_sha256,
        samples=material.counts(),
        prompts=tuple(prompt.user.content for prompt in material.prompts),
        notes=(*material.notes, *([path_note] if path_note else [])),
        device=device_name(device),
        precision="bf16 autocast" if autocast else "fp32",
        interval=f"{LEVEL} % interval, {RESAMPLES:,} bootstrap samples of whole groups (trees)",
        versions={
            "gpt2chat": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        seconds=time.perf_counter() - started,
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        path=path,
    )
    write_result(evaluation)
    return evaluation


def _measure(
    name: str,
    settings: EvalConfig,
    material: Material,
    device: torch.device,
    autocast: bool,
    on_progress: Progress | None,
) -> tuple[ModelResult, dict[str, Ratio]]:
    def reporting(what: str) -> Callable[[int, int], None]:
        def report(done: int, total: int) -> None:
            if on_progress is not None:
                on_progress(done, total, f"{name}: {what}")

        return report

    model = load_model(name, settings.seed)
    generator = Generator(model, device)
    ratios = measure_figures(model, material, name, reporting("tokens scored"), autocast=autocast)
    speed = measure_speed(model, device, reporting("speed")) if settings.speed else None
    replies = None
    if material.prompts:
        report = reporting("replies")
        replies = measure_replies(generator, material.prompt_ids, settings.seed, report)
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
    sequences = [sequence for kind in kinds for sequence in kind]
    if not sequences:
        return {}
    losses = iter(token_losses(model, sequences, on_progress, autocast=autocast))
    replies, reference, chosen, rejected = ([next(losses) for _ in kind] for kind in kinds)
    scored: list[Losses] = [*replies, *reference, *chosen, *rejected]
    if not all(np.isfinite(part).all() for part in scored):
        raise CheckpointError(
            f"{name} gives losses that are not finite, so its weights are damaged. "
            "Train it again, or choose another `model`.",
            setting="model",
        )
    ratios: dict[str, Ratio] = {}
    if replies:
        ratios |= reply_figures(material.replies, replies)
    if reference:
        ratios |= reference_figures(material.reference, reference)
    if chosen:
        ratios |= preference_figures(material.pairs, chosen, rejected)
    return ratios

"""Measure one or more models on the same held-out samples."""

import datetime
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers

from gpt2chat import __version__
from gpt2chat.core.config.evaluation import EvalConfig
from gpt2chat.core.errors import CheckpointError
from gpt2chat.core.evaluation.figures import (
    CalibrationPoint,
    calibration,
    differences,
    estimates,
    long_figures,
    preference_figures,
    reference_figures,
    reply_figures,
)
from gpt2chat.core.evaluation.heldout import SPLIT, Material, read_material
from gpt2chat.core.evaluation.memo import Memo, model_sha256
from gpt2chat.core.evaluation.questions import Question, read_questions
from gpt2chat.core.evaluation.replies import measure_replies
from gpt2chat.core.evaluation.results import (
    Difference,
    Evaluation,
    ModelResult,
    result_path,
    write_result,
)
from gpt2chat.core.evaluation.scoring import Losses, Scored, token_losses
from gpt2chat.core.evaluation.speed import measure_speed
from gpt2chat.core.evaluation.statistics import LEVEL, RESAMPLES, Statistic
from gpt2chat.core.generation.generate import Generator
from gpt2chat.core.model.device import device_name, pick_autocast, pick_device
from gpt2chat.core.model.flops import flops_per_token, parameters
from gpt2chat.core.model.load import load_model
from gpt2chat.core.model.names import ModelFolder, resolve_model
from gpt2chat.core.text.tokens import decode, encode_conversation

Progress = Callable[[int, int, str], None]
"""Called with the amount of work done, the total, and the name of that work."""


def evaluate(settings: EvalConfig, on_progress: Progress | None = None) -> Evaluation:
    """Measure a model and those it is compared with, and write the result to a file.

    It may run in any thread. Models are loaded one at a time. Losses and replies are kept in a
    second file next to the result as they are computed, and never computed again.

    Raises:
        DataError: The shards are missing or changed, or hold no validation rows.
        CheckpointError: A model cannot be loaded, its window is shorter than the samples, or its
            losses are not finite.
        NetworkError: A model cannot be downloaded from the Hub.
        HardwareError: This machine lacks the device or the precision.
        StorageError: The result cannot be written.
    """
    started = time.perf_counter()
    device = pick_device(settings.device)
    autocast = pick_autocast(settings.precision, device)
    path, path_note = result_path(settings)
    names = (settings.model, *settings.against)
    # All names are resolved before the first model is measured, so that a wrong one fails at once.
    models = [resolve_model(name) for name in names]
    window = min(model.window for model in models)
    materials = {data: read_material(settings, Path(data), window) for data in settings.data}
    version, questions = read_questions()
    # A tiny window may have no room for some questions and a reply.
    questions = [each for each in questions if len(encode_conversation(each.prompt)) < window]
    memo = Memo(path.with_suffix(".memo.sqlite"))
    measured = [
        _measure(model, settings, materials, questions, device, autocast, memo, on_progress)
        for model in models
    ]
    first, *others = settings.data
    prompts = [question.prompt for question in questions if settings.generations]
    prompts += materials[first].prompts
    pairs: list[Difference] = []
    for result, statistics in measured[1:]:
        by_data = {
            data: differences(measured[0][1][data], statistics[data], settings.seed)
            for data in settings.data
        }
        further = {data: by_data[data] for data in others}
        pairs.append(Difference(names[0], result.model, by_data[first], further))
    hashes = [materials[data].data_sha256 for data in settings.data]
    evaluation = Evaluation(
        settings=settings,
        models=tuple(result for result, _ in measured),
        differences=tuple(pairs),
        split=SPLIT,
        data_sha256=hashlib.sha256(repr(hashes).encode()).hexdigest() if others else hashes[0],
        samples=materials[first].counts(),
        further_samples={data: materials[data].counts() for data in others},
        prompts=tuple(prompt.user.content for prompt in prompts),
        notes=(
            *(note for material in materials.values() for note in material.notes),
            *([path_note] if path_note else []),
        ),
        device=device_name(device),
        precision="bf16 autocast" if autocast else "fp32",
        interval=f"{LEVEL} % interval, {RESAMPLES:,} bootstrap samples of whole groups (trees)",
        versions={
            "gpt2chat": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "questions": str(version),
        },
        seconds=time.perf_counter() - started,
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        path=path,
    )
    write_result(evaluation)
    return evaluation


def _measure(
    folder: ModelFolder,
    settings: EvalConfig,
    materials: Mapping[str, Material],
    questions: Sequence[Question],
    device: torch.device,
    autocast: bool,
    memo: Memo,
    on_progress: Progress | None,
) -> tuple[ModelResult, dict[str, dict[str, Statistic]]]:
    """Return the result of one model, and the statistics of each data folder for differences.

    Raises:
        CheckpointError: The model cannot be loaded, or a loss is not finite.
    """
    name = folder.name

    def progress_of(work: str) -> Callable[[int, int], None]:
        def report(done: int, total: int) -> None:
            if on_progress is not None:
                on_progress(done, total, f"{name}: {work}")

        return report

    model = load_model(folder, settings.seed)
    sha256 = model_sha256(folder)
    # The seed draws the rows of the template's tokens that a base model lacks.
    drawn = None if folder.is_chat else settings.seed
    facts = (sha256, drawn, device_name(device), autocast, torch.__version__)
    generator = Generator(model, device)
    # All kinds of all folders are scored in one call, because what several of them contain, such as
    # a reply that is also a path of the reference construction, is computed once.
    kinds: list[Sequence[Scored]] = []
    for material in materials.values():
        kinds += [
            [(ids.ids, ids.prompt_length) for ids in material.reply_ids],
            [(ids, 1) for ids in material.reference_ids],
            [(ids.ids, ids.prompt_length) for ids in material.rolling_ids],
            [scored for windows in material.strided for scored in windows],
            [(ids.ids, ids.prompt_length) for ids in material.chosen_ids],
            [(ids.ids, ids.prompt_length) for ids in material.rejected_ids],
        ]
    losses: list[Losses] = []
    if sequences := [sequence for kind in kinds for sequence in kind]:
        losses = token_losses(
            model,
            sequences,
            progress_of("tokens scored"),
            autocast=autocast,
            memo=memo,
            facts=facts,
        )
        if not all(np.isfinite(each).all() for each in losses):
            raise CheckpointError(
                f"{name} gives losses that are not finite, so its weights are damaged. "
                "Train it again, or choose another `model`.",
                setting="model",
            )
    in_order = iter(losses)
    of_kinds = iter([[next(in_order) for _ in kind] for kind in kinds])
    statistics: dict[str, dict[str, Statistic]] = {}
    points: dict[str, tuple[CalibrationPoint, ...]] = {}
    for data, material in materials.items():
        replies, reference, rolling, windows, chosen, rejected = (next(of_kinds) for _ in range(6))
        here: dict[str, Statistic] = {}
        if replies:
            here |= reply_figures(material.replies, replies)
        if reference:
            here |= reference_figures(material.reference, reference)
        if rolling:
            in_windows = iter(windows)
            strided = [np.concatenate([next(in_windows) for _ in w]) for w in material.strided]
            here |= long_figures(material.long, rolling, strided)
        if chosen:
            here |= preference_figures(material.pairs, chosen, rejected)
            points[data] = calibration(material.pairs, chosen, rejected, settings.seed)
        statistics[data] = here
    speed = measure_speed(model, device, progress_of("speed")) if settings.speed else None
    first, *others = materials
    generated = None
    if settings.generations:
        prompt_ids = [encode_conversation(question.prompt).ids for question in questions]
        generated, of_replies = measure_replies(
            generator,
            [*prompt_ids, *materials[first].prompt_ids],
            settings.seed,
            progress_of("replies"),
            memo,
            facts,
            questions,
        )
        statistics[first] |= of_replies
        # The sampler's own probabilities depend on its rules and on the precision of a chat.
        prompt_ids += materials[first].prompt_ids
        answers = [
            ([*prompt, *text.ids], len(prompt))
            for prompt, text in zip(prompt_ids, generated.texts, strict=True)
        ]
        report = progress_of("tokens of replies scored")
        of_tokens = token_losses(model, answers, report, autocast=autocast, memo=memo, facts=facts)
        texts = tuple(
            replace(
                text,
                tokens=tuple(decode([token]) for token in text.ids),
                probabilities=tuple(np.exp(-losses.astype(np.float64)).round(4).tolist()),
            )
            for text, losses in zip(generated.texts, of_tokens, strict=True)
        )
        generated = replace(generated, texts=texts)
    # At the full window attention costs the most, so this is the highest cost of a token.
    context = model.config.n_positions
    result = ModelResult(
        model=name,
        sha256=sha256,
        parameters=parameters(model),
        flops_per_token=int(flops_per_token(model.config, context)),
        flops_context=context,
        figures=estimates(statistics[first], settings.seed),
        further={data: estimates(statistics[data], settings.seed) for data in others},
        calibration=points.get(first, ()),
        speed=speed,
        replies=generated,
    )
    return result, statistics

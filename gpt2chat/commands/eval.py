"""`gpt2chat eval`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gpt2chat import options
from gpt2chat.core.config.evaluation import EvalConfig

Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="A run, a folder, a Hub name or `starter`; the newest finished run if not given.",
        show_default=False,
    ),
]
Against = Annotated[
    list[str] | None,
    typer.Option(
        "--against",
        help="Another model, on the same samples, with differences; may be given several times.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="File to write; eval.json in the model's folder if not given.",
        show_default=False,
    ),
]
Perplexity = Annotated[bool, typer.Option("--ppl/--no-ppl", help="Measure perplexity.")]
Speed = Annotated[bool, typer.Option("--speed/--no-speed", help="Measure tokens per second.")]
Preferences = Annotated[
    bool,
    typer.Option(
        "--preferences/--no-preferences", help="Measure preference accuracy on held-out pairs."
    ),
]
Generations = Annotated[
    int,
    typer.Option("--generations", help="Describe the replies to so many held-out prompts."),
]


def evaluate(
    model: Model = EvalConfig.model,
    against: Against = list(EvalConfig.against),  # noqa: B006 - typer copies it
    data: options.Data = EvalConfig.data,
    out: Out = EvalConfig.out,
    ppl: Perplexity = EvalConfig.ppl,
    speed: Speed = EvalConfig.speed,
    preferences: Preferences = EvalConfig.preferences,
    generations: Generations = EvalConfig.generations,
    limit: options.Limit = EvalConfig.limit,
    device: options.DeviceName = EvalConfig.device,
    precision: options.PrecisionName = EvalConfig.precision,
    seed: options.Seed = EvalConfig.seed,
    json: options.Json = False,
    config: options.ConfigFile = None,
) -> None:
    """Measure a model: perplexity, preference accuracy, speed; alone or against others."""
    settings = EvalConfig(
        model=model,
        against=tuple(against or EvalConfig.against),
        data=data,
        out=out,
        ppl=ppl,
        speed=speed,
        preferences=preferences,
        generations=generations,
        limit=limit,
        device=device,
        precision=precision,
        seed=seed,
    )
    from gpt2chat.core.runs import pick_model
    from gpt2chat.report import evaluation_progress, note, show_evaluation

    name, why = pick_model(settings.model, ("sft", "orpo"), "gpt2chat sft")
    settings = replace(settings, model=name)
    others = f"; against: {', '.join(settings.against)}" if settings.against else ""
    note(f"{why}{others}; data: {settings.data}")
    with evaluation_progress() as on_progress:
        # From here on torch is loaded: the settings are sound, so the wait is worth it.
        from gpt2chat.core.evaluation import evaluate as evaluation

        result = evaluation.evaluate(settings, on_progress)
    show_evaluation(result, json=json)

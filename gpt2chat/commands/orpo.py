"""`gpt2chat orpo`."""

from dataclasses import replace
from typing import Annotated

import typer

from gpt2chat import options
from gpt2chat.core.config import NllScope, OrpoConfig

Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="A run, a folder, a Hub name; the newest finished sft run if not given.",
        show_default=False,
    ),
]
Beta = Annotated[float, typer.Option("--beta", "--lambda", help="Weight of the odds-ratio term.")]
Scope = Annotated[
    NllScope,
    typer.Option("--nll-scope", help="Likelihood of the chosen reply, or of its prompt too."),
]


def orpo(
    context: typer.Context,
    model: Model = OrpoConfig.model,
    data: options.Data = OrpoConfig.data,
    out: options.Out = OrpoConfig.out,
    epochs: options.Epochs = OrpoConfig.epochs,
    lr: options.LearningRate = OrpoConfig.lr,
    beta: Beta = OrpoConfig.beta,
    nll_scope: Scope = OrpoConfig.nll_scope,
    token_lr: options.TokenLearningRate = OrpoConfig.token_lr,
    warmup: options.Warmup = OrpoConfig.warmup,
    weight_decay: options.WeightDecay = OrpoConfig.weight_decay,
    max_grad_norm: options.MaxGradNorm = OrpoConfig.max_grad_norm,
    batch_tokens: options.BatchTokens = OrpoConfig.batch_tokens,
    batch_size: options.BatchSize = OrpoConfig.batch_size,
    grad_accum: options.GradAccum = OrpoConfig.grad_accum,
    max_length: options.MaxLength = OrpoConfig.max_length,
    limit: options.Limit = OrpoConfig.limit,
    eval_samples: options.EvalSamples = OrpoConfig.eval_samples,
    evals: options.Evals = OrpoConfig.evals,
    device: options.DeviceName = OrpoConfig.device,
    precision: options.PrecisionName = OrpoConfig.precision,
    resume: options.Resume = OrpoConfig.resume,
    overwrite: options.Overwrite = OrpoConfig.overwrite,
    seed: options.Seed = OrpoConfig.seed,
    json: options.Json = False,
    config: options.ConfigFile = None,
) -> None:
    """Align a chat model with pairs of chosen and rejected replies, by ORPO."""
    settings = OrpoConfig(
        model=model,
        data=data,
        out=out,
        epochs=epochs,
        lr=lr,
        beta=beta,
        nll_scope=nll_scope,
        token_lr=token_lr,
        warmup=warmup,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        batch_tokens=batch_tokens,
        batch_size=batch_size,
        grad_accum=grad_accum,
        max_length=max_length,
        limit=limit,
        eval_samples=eval_samples,
        evals=evals,
        device=device,
        precision=precision,
        resume=resume,
        overwrite=overwrite,
        seed=seed,
    )
    settings = options.resumed(context, settings)
    from gpt2chat.core.runs import pick_model
    from gpt2chat.report import note, show_training, training_progress

    name, why = pick_model(settings.model, ("sft",), "gpt2chat sft")
    settings = replace(settings, model=name)
    note(f"{why}; data: {settings.data}; run folder: {settings.out}")
    with training_progress("orpo") as on_step:
        # From here on torch is loaded: the settings are sound, so the wait is worth it.
        from gpt2chat.core.training import train_orpo

        result = train_orpo(settings, on_step)
    show_training(result, json=json)

"""`gpt2chat orpo`."""

from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from gpt2chat import options
from gpt2chat.core.config.training import NllScope, OrpoConfig

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
    schedule: options.ScheduleName = OrpoConfig.schedule,
    cycles: options.Cycles = OrpoConfig.cycles,
    warmup: options.Warmup = OrpoConfig.warmup,
    weight_decay: options.WeightDecay = OrpoConfig.weight_decay,
    max_grad_norm: options.MaxGradNorm = OrpoConfig.max_grad_norm,
    dropout: options.Dropout = OrpoConfig.dropout,
    neftune: options.Neftune = OrpoConfig.neftune,
    lora_r: options.LoraRank = OrpoConfig.lora_r,
    lora_alpha: options.LoraAlpha = OrpoConfig.lora_alpha,
    dora: options.Dora = OrpoConfig.dora,
    merge: options.Merge = OrpoConfig.merge,
    batch_tokens: options.BatchTokens = OrpoConfig.batch_tokens,
    batch_size: options.BatchSize = OrpoConfig.batch_size,
    grad_accum: options.GradAccum = OrpoConfig.grad_accum,
    max_length: options.MaxLength = OrpoConfig.max_length,
    limit: options.Limit = OrpoConfig.limit,
    eval_samples: options.EvalSamples = OrpoConfig.eval_samples,
    evals: options.Evals = OrpoConfig.evals,
    patience: options.Patience = OrpoConfig.patience,
    save_minutes: options.SaveMinutes = OrpoConfig.save_minutes,
    device: options.DeviceName = OrpoConfig.device,
    precision: options.PrecisionName = OrpoConfig.precision,
    compile: options.CompileMode = OrpoConfig.compile,
    report_to: options.ReportTo = None,
    resume: options.ResumeMode = OrpoConfig.resume,
    overwrite: options.Overwrite = OrpoConfig.overwrite,
    dry_run: options.DryRun = OrpoConfig.dry_run,
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
        schedule=schedule,
        cycles=cycles,
        warmup=warmup,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        dropout=dropout,
        neftune=neftune,
        lora_r=lora_r,
        lora_alpha=lora_alpha,
        dora=dora,
        merge=merge,
        batch_tokens=batch_tokens,
        batch_size=batch_size,
        grad_accum=grad_accum,
        max_length=max_length,
        limit=limit,
        eval_samples=eval_samples,
        evals=evals,
        patience=patience,
        save_minutes=save_minutes,
        device=device,
        precision=precision,
        compile=compile,
        report_to=tuple(report_to or ()),
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
        seed=seed,
    )
    from gpt2chat.core.runs import pick_model
    from gpt2chat.report import (
        note,
        note_positions,
        show_plan,
        show_training,
        training_progress,
    )

    with options.open_run(context, settings) as start:
        name, why = pick_model(start.settings.model, ("sft",), "gpt2chat sft")
        settings = replace(start.settings, model=name)
        note(f"{why}; data: {settings.data}; run folder: {settings.out}")
        note_positions(settings.data, settings.max_length)
        with training_progress("orpo") as on_step:
            # From here on torch is loaded: the settings are sound, so the wait is worth it.
            if settings.dry_run:
                from gpt2chat.core.training.plan import plan_orpo

                show = partial(show_plan, plan_orpo(settings))
            else:
                from gpt2chat.core.training.train import train

                start = replace(start, settings=settings)
                show = partial(show_training, train(start, on_step))
    show(json=json)

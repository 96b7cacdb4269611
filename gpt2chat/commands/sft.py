"""`gpt2chat sft`."""

from functools import partial
from typing import Annotated

import typer

from gpt2chat import options
from gpt2chat.core.config.training import SftConfig, TrainOn

Model = Annotated[str, typer.Option("--model", help="A Hub name, a folder, a run, or `starter`.")]
On = Annotated[
    TrainOn,
    typer.Option("--train-on", help="Train the tokens of the reply, or the prompt's too."),
]
Chosen = Annotated[
    bool,
    typer.Option(
        "--chosen", help="Train on the chosen replies of the preference pairs: ORPO's control."
    ),
]


def sft(
    context: typer.Context,
    model: Model = SftConfig.model,
    data: options.Data = SftConfig.data,
    out: options.Out = SftConfig.out,
    epochs: options.Epochs = SftConfig.epochs,
    lr: options.LearningRate = SftConfig.lr,
    token_lr: options.TokenLearningRate = SftConfig.token_lr,
    train_on: On = SftConfig.train_on,
    chosen: Chosen = SftConfig.chosen,
    schedule: options.ScheduleName = SftConfig.schedule,
    cycles: options.Cycles = SftConfig.cycles,
    warmup: options.Warmup = SftConfig.warmup,
    weight_decay: options.WeightDecay = SftConfig.weight_decay,
    max_grad_norm: options.MaxGradNorm = SftConfig.max_grad_norm,
    dropout: options.Dropout = SftConfig.dropout,
    neftune: options.Neftune = SftConfig.neftune,
    lora_r: options.LoraRank = SftConfig.lora_r,
    lora_alpha: options.LoraAlpha = SftConfig.lora_alpha,
    dora: options.Dora = SftConfig.dora,
    merge: options.Merge = SftConfig.merge,
    batch_tokens: options.BatchTokens = SftConfig.batch_tokens,
    batch_size: options.BatchSize = SftConfig.batch_size,
    grad_accum: options.GradAccum = SftConfig.grad_accum,
    max_length: options.MaxLength = SftConfig.max_length,
    limit: options.Limit = SftConfig.limit,
    eval_samples: options.EvalSamples = SftConfig.eval_samples,
    evals: options.Evals = SftConfig.evals,
    patience: options.Patience = SftConfig.patience,
    save_minutes: options.SaveMinutes = SftConfig.save_minutes,
    device: options.DeviceName = SftConfig.device,
    precision: options.PrecisionName = SftConfig.precision,
    compile: options.CompileMode = SftConfig.compile,
    report_to: options.ReportTo = None,
    resume: options.ResumeMode = SftConfig.resume,
    overwrite: options.Overwrite = SftConfig.overwrite,
    dry_run: options.DryRun = SftConfig.dry_run,
    seed: options.Seed = SftConfig.seed,
    json: options.Json = False,
    config: options.ConfigFile = None,
) -> None:
    """Fine-tune GPT-2 on the conversations that `prepare` wrote.

    Only the tokens of the reply are trained. Samples are packed into rows without padding, and
    no sample sees another.
    """
    settings = SftConfig(
        model=model,
        data=data,
        out=out,
        epochs=epochs,
        lr=lr,
        token_lr=token_lr,
        train_on=train_on,
        chosen=chosen,
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
    from gpt2chat.report import (
        note,
        note_positions,
        show_plan,
        show_training,
        training_progress,
    )

    with options.open_run(context, settings) as start:
        settings = start.settings
        note(f"model: {settings.model}; data: {settings.data}; run folder: {settings.out}")
        note_positions(settings.data, settings.max_length)
        with training_progress("sft") as on_step:
            # From here on torch is loaded: the settings are sound, so the wait is worth it.
            if settings.dry_run:
                from gpt2chat.core.training.plan import plan_sft

                show = partial(show_plan, plan_sft(settings))
            else:
                from gpt2chat.core.training.train import train

                show = partial(show_training, train(start, on_step))
    show(json=json)

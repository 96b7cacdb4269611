"""`gpt2chat sft`."""

from typing import Annotated

import typer

from gpt2chat import options
from gpt2chat.core.config import SftConfig

Model = Annotated[str, typer.Option("--model", help="A Hub name, a folder, a run, or `starter`.")]


def sft(
    context: typer.Context,
    model: Model = SftConfig.model,
    data: options.Data = SftConfig.data,
    out: options.Out = SftConfig.out,
    epochs: options.Epochs = SftConfig.epochs,
    lr: options.LearningRate = SftConfig.lr,
    token_lr: options.TokenLearningRate = SftConfig.token_lr,
    warmup: options.Warmup = SftConfig.warmup,
    weight_decay: options.WeightDecay = SftConfig.weight_decay,
    max_grad_norm: options.MaxGradNorm = SftConfig.max_grad_norm,
    batch_tokens: options.BatchTokens = SftConfig.batch_tokens,
    batch_size: options.BatchSize = SftConfig.batch_size,
    grad_accum: options.GradAccum = SftConfig.grad_accum,
    max_length: options.MaxLength = SftConfig.max_length,
    limit: options.Limit = SftConfig.limit,
    eval_samples: options.EvalSamples = SftConfig.eval_samples,
    evals: options.Evals = SftConfig.evals,
    device: options.DeviceName = SftConfig.device,
    precision: options.PrecisionName = SftConfig.precision,
    resume: options.Resume = SftConfig.resume,
    overwrite: options.Overwrite = SftConfig.overwrite,
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
    from gpt2chat.report import note, show_training, training_progress

    note(f"model: {settings.model}; data: {settings.data}; run folder: {settings.out}")
    with training_progress("sft") as on_step:
        # From here on torch is loaded: the settings are sound, so the wait is worth it.
        from gpt2chat.core.training import train_sft

        result = train_sft(settings, on_step)
    show_training(result, json=json)

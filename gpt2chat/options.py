"""Flags that subcommands share: one name, one help text each; and `--config`."""

import dataclasses
import tomllib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpt2chat.core.config.settings import Compile, Device, Precision
from gpt2chat.core.config.training import Resume, Schedule, TrainConfig
from gpt2chat.core.errors import ConfigError

if TYPE_CHECKING:
    from gpt2chat.core.runs import Start


def read_defaults(context: typer.Context, path: Path | None) -> Path | None:
    """Let a TOML file stand in for flags; a flag that is given still wins.

    Raises:
        ConfigError: The file cannot be read, or has a setting that the subcommand has not.
    """
    if path is None:
        return None
    path = preset(str(context.info_name), path)
    try:
        values = tomllib.loads(path.read_text("utf-8", errors="surrogateescape"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--config {path} cannot be read: {error}.") from error
    unknown = values.keys() - {parameter.name for parameter in context.command.params}
    if unknown:
        raise ConfigError(f"--config {path} has unknown settings: {', '.join(sorted(unknown))}.")
    for parameter in context.command.params:
        # A flag that may be given several times may stand once in a file, without brackets.
        if getattr(parameter, "multiple", False) and isinstance(values.get(parameter.name), str):
            values[str(parameter.name)] = [values[str(parameter.name)]]
    context.default_map = {**(context.default_map or {}), **values}
    return path


PRESETS = Path(__file__).parent / "presets"
"""Files of settings that come with the program: presets/sft/reference.toml …"""


def preset(command: str, path: Path) -> Path:
    """Return the file that `--config` names: one of the user's, or a preset by its bare name.

    Raises:
        ConfigError: There is neither.
    """
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    bundled = PRESETS / command / f"{path.name}.toml"
    if bundled.exists():
        return bundled
    names = sorted(file.stem for file in (PRESETS / command).glob("*.toml"))
    known = f"the presets of {command} are: {', '.join(names)}" if names else "there are no presets"
    raise ConfigError(f"--config {path}: there is no such file, and {known}.")


def open_run(context: typer.Context, settings: TrainConfig) -> AbstractContextManager["Start"]:
    """Open the run folder of `settings`, which must agree with the run that `--resume` continues
    as far as flags and `--config` say."""
    from gpt2chat.core.runs import open_run

    causes = {"COMMANDLINE": "`{}`", "DEFAULT_MAP": "--config"}
    given: dict[str, str] = {}
    for entry in dataclasses.fields(settings):
        source = context.get_parameter_source(entry.name)
        if source is not None and source.name in causes:
            given[entry.name] = causes[source.name].format(entry.name)
    return open_run(settings, str(context.info_name), given)


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="TOML file of settings, such as a run's run.toml; flags win over it.",
        is_eager=True,
        callback=read_defaults,
        show_default=False,
    ),
]
Data = Annotated[Path, typer.Option("--data", help="Folder that `prepare` wrote.")]
DeviceName = Annotated[Device, typer.Option("--device", help="auto takes a GPU if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything that is drawn.")]
PrecisionName = Annotated[
    Precision, typer.Option("--precision", help="bf16 autocast, or float32 throughout.")
]

# Training: the names of Hugging Face's TrainingArguments are taken too.
Out = Annotated[Path, typer.Option("--out", "--output-dir", help="Run folder to write.")]
Epochs = Annotated[
    float, typer.Option("--epochs", "--num-train-epochs", help="Passes over the data.")
]
LearningRate = Annotated[
    float, typer.Option("--lr", "--learning-rate", help="Highest learning rate of AdamW.")
]
TokenLearningRate = Annotated[
    float, typer.Option("--token-lr", help="Times --lr: how fast the template's tokens learn.")
]
ScheduleName = Annotated[
    Schedule,
    typer.Option("--schedule", "--lr-scheduler-type", help="How the rate falls after the warm-up."),
]
Cycles = Annotated[
    int, typer.Option("--cycles", help="Cosine periods; above 1 the rate restarts at its top.")
]
Warmup = Annotated[
    float,
    typer.Option(
        "--warmup",
        "--warmup-ratio",
        "--warmup-steps",
        help="Share of the steps spent warming up; from 1 on, their number.",
    ),
]
Dropout = Annotated[
    float | None,
    typer.Option(
        "--dropout",
        help="Of embeddings and residuals; the model's own if not given.",
        show_default=False,
    ),
]
Neftune = Annotated[
    float,
    typer.Option(
        "--neftune",
        "--neftune-noise-alpha",
        help="Noise on the embeddings (NEFTune's alpha, such as 5); 0 for none.",
    ),
]
LoraRank = Annotated[
    int,
    typer.Option("--lora-r", help="Train LoRA of this rank instead of all weights; 0 does not."),
]
LoraAlpha = Annotated[
    int | None,
    typer.Option(
        "--lora-alpha", help="LoRA's alpha; twice the rank if not given.", show_default=False
    ),
]
Dora = Annotated[bool, typer.Option("--dora", help="Make it DoRA.")]
Merge = Annotated[
    bool,
    typer.Option("--merge/--no-merge", help="Save LoRA merged into a plain model, or the adapter."),
]
WeightDecay = Annotated[float, typer.Option("--weight-decay", help="AdamW's, on matrices.")]
MaxGradNorm = Annotated[float, typer.Option("--max-grad-norm", help="Clip gradients to this.")]
BatchTokens = Annotated[
    int | None,
    typer.Option(
        "--batch-tokens",
        help="Most tokens in one packed row: 4096 on a CPU, 32768 on a GPU if not given.",
        show_default=False,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        "--per-device-train-batch-size",
        help="Most samples in one packed row; no limit if not given.",
        show_default=False,
    ),
]
GradAccum = Annotated[
    int,
    typer.Option(
        "--grad-accum",
        "--gradient-accumulation-steps",
        help="Packed rows per optimizer step.",
    ),
]
MaxLength = Annotated[
    int, typer.Option("--max-length", "--max-seq-length", help="Longest sample, in tokens.")
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", help="Take so many samples only.", show_default=False),
]
EvalSamples = Annotated[
    int,
    typer.Option("--eval-samples", help="Held-out samples for the validation loss; 0 for none."),
]
Evals = Annotated[int, typer.Option("--evals", help="Validations in the run, evenly spaced.")]
Patience = Annotated[
    int | None,
    typer.Option(
        "--patience",
        help="End after so many validations without a lower loss; never if not given.",
        show_default=False,
    ),
]
SaveMinutes = Annotated[
    float, typer.Option("--save-minutes", help="Save at least this often, beside validations.")
]
CompileMode = Annotated[
    Compile,
    typer.Option(
        "--compile", help="Compile the model; auto does on a GPU if the run is long enough."
    ),
]
ReportTo = Annotated[
    list[str] | None,
    typer.Option(
        "--report-to",
        help="Give the metrics to tensorboard, trackio or wandb too (may be given again).",
        metavar="TRACKER",
        show_default=False,
    ),
]
ResumeMode = Annotated[
    Resume,
    typer.Option(
        "--resume",
        help="auto goes on with the unfinished run in --out, if there is one; on insists on it.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that --out holds.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Take two real steps, say what the run needs, write nothing."),
]

"""Run folders: what stands in one, and which is the newest finished.

runs/sft/
├── model.safetensors, config.json, tokenizer.json, …   a plain GPT2LMHeadModel directory
├── README.md        the model card
├── run.toml         every setting; `--config run.toml` repeats the run
├── metrics.jsonl    one line per logged step
├── loss.png         the loss curve
├── result.json      written last: a run that has it is finished
└── checkpoints/     to resume from; removed when the run is finished
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt2chat.core.config.training import Resume
from gpt2chat.core.errors import CheckpointError, ConfigError, StorageError
from gpt2chat.core.files import STARTER, remove, storage, write_text

RUNS = Path("runs")
RESULT = "result.json"
SETTINGS = "run.toml"
METRICS = "metrics.jsonl"
CURVE = "loss.png"
CHECKPOINTS = "checkpoints"
SEAL = "sealed.json"
"""In a checkpoint that was written to its end: the size of each of its files."""
KEPT = 2
"""Whole checkpoints of a run."""


def read_result(run: Path) -> dict[str, Any] | None:
    """Return the result of a finished run; None for any other folder."""
    try:
        result: Any = json.loads((run / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and "finished" in result else None


def newest_run(commands: Iterable[str], runs: Path = RUNS) -> Path | None:
    """Return the run folder under `runs` that one of `commands` finished last."""
    wanted = set(commands)
    finished: list[tuple[str, Path]] = []
    for folder in sorted(runs.iterdir()) if runs.is_dir() else ():
        result = read_result(folder)
        if result is not None and result.get("command") in wanted:
            finished.append((result["finished"], folder))
    return max(finished, default=(None, None))[1]


def pick_model(name: str, commands: Iterable[str], before: str) -> tuple[str, str]:
    """Return which model to use and, for the user, why.

    Args:
        name: What was asked for; empty for the newest finished run of `commands`.
        before: The command to type where there is none, such as `gpt2chat sft`.

    Raises:
        CheckpointError: Nothing was asked for, and no run is finished.
    """
    if name:
        return name, f"model: {name}"
    run = newest_run(commands)
    if run is None:
        kinds = " or ".join(commands)
        raise CheckpointError(
            f"No finished {kinds} run under {RUNS}/. Type {before} first, or name one with --model."
        )
    return str(run), f"model: {run} (newest finished run)"


def local_folder(name: str) -> Path | None:
    """Return the folder that a model's name stands for; None where it is a name on the Hub.

    Raises:
        CheckpointError: It looks like a folder, and there is none, or a file.
    """
    if name == "starter":
        return STARTER
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"--model {name} is a file. Give the folder that holds it.")
    if name.count("/") > 1 or name.startswith((".", "/", "~", "runs/")):
        raise CheckpointError(f"--model {name}: there is no such folder.")
    return None


def open_run(out: Path, command: str, resume: Resume, overwrite: bool) -> Path | None:
    """Return the checkpoint to go on from, or None where the run starts at its beginning.

    Nothing is changed: that waits until model and data are known to be sound.

    Raises:
        ConfigError: The folder holds a run, and neither flag says what to do with it; or there is
            nothing to resume.
        StorageError: The folder holds something that is no run.
    """
    checkpoint = newest_checkpoint(out)
    if resume == "on" and checkpoint is None:
        raise ConfigError(f"--resume on: {out} has no checkpoint. Start with gpt2chat {command}.")
    if resume != "off" and checkpoint is not None:
        return checkpoint
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / SETTINGS).exists():
        raise StorageError(f"{out} exists and is no run folder. Give another with --out.")
    if overwrite:
        return None
    if read_result(out) is not None:
        raise ConfigError(
            f"{out} holds a finished run. Give another folder with --out, or --overwrite."
        )
    if checkpoint is not None:
        raise ConfigError(
            f"{out} holds an unfinished run, saved at step {_step_of(checkpoint)}. "
            "Go on with --resume auto, or start over with --overwrite."
        )
    return None


def newest_checkpoint(run: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end."""
    folders = (run / CHECKPOINTS).glob("checkpoint-*")
    return max((folder for folder in folders if _is_whole(folder)), key=_step_of, default=None)


def prune_checkpoints(run: Path, best: int | None) -> None:
    """Remove all checkpoints but two whole ones: the newest, and that of step `best` or, where it
    is the same or there is none, the one before."""
    folders = {_step_of(folder): folder for folder in (run / CHECKPOINTS).glob("checkpoint-*")}
    whole = sorted((step for step in folders if _is_whole(folders[step])), reverse=True)
    wanted = [*whole[:1], *(step for step in whole if step == best), *whole]
    kept = list(dict.fromkeys(wanted))[:KEPT]
    for step, folder in folders.items():
        if step not in kept:
            remove(folder)


def remove_broken_checkpoints(run: Path) -> None:
    """Remove the checkpoints that were not written to their end, such as on a full disk."""
    for folder in (run / CHECKPOINTS).glob("checkpoint-*"):
        if not _is_whole(folder):
            remove(folder)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as written to its end, once all of it is on the disk.

    Raises:
        StorageError: The disk is full.
    """
    sizes: dict[str, int] = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file():
            with storage(path), path.open("rb+") as file:
                os.fsync(file.fileno())
            sizes[str(path.relative_to(checkpoint))] = path.stat().st_size
    write_text(checkpoint / SEAL, json.dumps(sizes) + "\n")


def _is_whole(checkpoint: Path) -> bool:
    try:
        sizes: dict[str, int] = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False

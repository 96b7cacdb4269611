"""What a run was started with beside its settings; only a start that shares it goes on with it.

It stands in runs/sft/checkpoints/started.json, and goes with the checkpoints of a finished run.
"""

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt2chat.core.errors import ConfigError, DataError
from gpt2chat.core.files import write_text
from gpt2chat.core.runs import CHECKPOINTS, RUNS

STARTED = "started.json"


@dataclass(frozen=True, kw_only=True)
class Started:
    """What decides, beside the settings, what a run's next steps are."""

    command: str
    """`sft` or `orpo`."""
    processes: int
    sharded: bool
    """FSDP gives each process a part of the weights."""
    samples: str
    """Fingerprints of what is trained and what is validated on."""

    def resume_line(self, run: Path) -> str:
        """Return what to type to go on with the run."""
        launch = f"torchrun --nproc-per-node {self.processes} -m " if self.processes > 1 else ""
        if self.sharded:
            launch = "accelerate launch --config_file FILE -m "
        where = "" if run == RUNS / self.command else f" --out {shlex.quote(str(run))}"
        return f"{launch}gpt2chat {self.command} --resume auto{where}"


def write_started(run: Path, started: Started) -> None:
    """Keep it with the run's checkpoints.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    write_text(run / CHECKPOINTS / STARTED, json.dumps(asdict(started)) + "\n")


def read_started(run: Path) -> Started | None:
    """Return it; None for a run of a version that did not keep it."""
    try:
        values: dict[str, Any] = json.loads((run / CHECKPOINTS / STARTED).read_text("utf-8"))
        return Started(**values)
    except (OSError, ValueError, TypeError):
        return None


def require_command(run: Path, command: str) -> None:
    """Refuse to go on with a run of the other command.

    Raises:
        ConfigError: It is one; what to type instead.
    """
    saved = read_started(run)
    if saved is not None and saved.command != command:
        raise ConfigError(
            f"{run} holds an unfinished {saved.command} run, not one of {command}. "
            f"Give another folder with --out, or go on with: {saved.resume_line(run)}"
        )


def require_same(run: Path, now: Started, data: Path) -> None:
    """Refuse to go on with a run under other conditions than it was started with.

    Raises:
        ConfigError: By the other command, or with another number of processes.
        DataError: With other samples.
    """
    require_command(run, now.command)
    saved = read_started(run)
    if saved is None:
        return
    if (saved.processes, saved.sharded) != (now.processes, now.sharded):
        raise ConfigError(
            f"{run} was started with {_processes(saved)}, not {_processes(now)}: its steps would "
            f"be others. Go on with: {saved.resume_line(run)}"
        )
    if saved.samples != now.samples:
        raise DataError(
            f"{data} holds other samples than {run} was started with. Prepare the same data again, "
            "or start over with --overwrite."
        )


def _processes(started: Started) -> str:
    sharing = " under FSDP" if started.sharded else ""
    return f"{started.processes} process{'es' * (started.processes > 1)}{sharing}"

"""Run folders: open, resume, seal, finish and list what `sft` and `orpo` write.

runs/sft/
├── model.safetensors, config.json, tokenizer.json, …   a plain GPT2LMHeadModel directory
├── README.md        the model card
├── run.toml         every setting, to repeat the run with
├── metrics.jsonl    one line per logged step
├── loss.png         the loss curve
├── result.json      written last: a run that has it is finished
├── .gpt2chat.lock   while a process writes to the folder
└── checkpoints/     to resume from; removed when the run is finished
    ├── started.json     the conditions that a resume must share
    └── checkpoint-120/  counts once its sealed.json is written
"""

import hashlib
import json
import os
import re
import shutil
import tomllib
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from gpt2chat.core.config.settings import to_toml
from gpt2chat.core.config.training import Resume, TrainConfig
from gpt2chat.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    Gpt2ChatError,
    StorageError,
    call,
)
from gpt2chat.core.files import make_folder, reading, storage, write_text

RUNS = Path("runs")
RESULT = "result.json"
SETTINGS = "run.toml"
METRICS = "metrics.jsonl"
CURVE = "loss.png"
CARD = "README.md"
CHECKPOINTS = "checkpoints"
STARTED = "started.json"
SEAL = "sealed.json"
LOCK = ".gpt2chat.lock"
TRAINER_STATE = "trainer_state.json"
BEST = ("best_metric", "best_global_step")
# The newest may be damaged, and an older one then costs only some steps.
CHECKPOINTS_KEPT = 2

DEBRIS = {LOCK, SETTINGS, METRICS, CHECKPOINTS, "tensorboard"}
"""Files left by a start that ended before its first checkpoint, which nobody would miss."""
# Names, not a manifest of written files: that would be missing or damaged exactly when it is
# needed, and then all or nothing would have to go.
OWN_FILES = re.compile(
    r"(run\.toml|metrics\.jsonl|loss\.png|result\.json|README\.md|"
    r"eval(-.+)?\.(json|html|memo\.sqlite)|"
    r"(generation_|adapter_|tokenizer_)?config\.json|tokenizer\.json|special_tokens_map\.json|"
    r"chat_template\.jinja|(adapter_)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?)"
    r"(\.\d+\.partial)?"
)
"""Names of the files that the program writes into a run folder. Any other file is the user's."""
RESUMABLE_CHANGES = {
    *("resume", "overwrite", "dry_run", "out", "device", "precision", "compile"),
    *("report_to", "save_minutes"),
}
"""Settings that may differ between two starts of a run."""

Settings = TypeVar("Settings", bound=TrainConfig)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The conditions, in addition to the settings, that decide a run's next steps."""

    command: str
    """`sft` or `orpo`."""
    processes: int
    sharded: bool
    """FSDP gives each process a part of the weights."""
    samples: str
    """Fingerprints of the training and the validation samples."""

    def resume_call(self, folder: Path) -> str:
        """Return the call that resumes the run, and the processes that it needs, for a message."""
        where: dict[str, Any] = {} if folder == RUNS / self.command else {"out": folder}
        resume = call(self.command, resume="auto", **where)
        return f"{resume} in {self}" if self.processes > 1 or self.sharded else resume

    def __str__(self) -> str:
        sharing = " under FSDP" if self.sharded else ""
        return f"{self.processes} process{'es' * (self.processes > 1)}{sharing}"


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder. Its files are read only when a method needs them."""

    folder: Path

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.folder / CHECKPOINTS

    def settings(self) -> dict[str, Any]:
        """Return the settings in run.toml.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        path = self.folder / SETTINGS
        with reading(path):
            # A file name need not be valid UTF-8, and it comes back as it was.
            return tomllib.loads(path.read_text("utf-8", errors="surrogateescape"))

    def result(self) -> dict[str, Any] | None:
        """Return the content of result.json; None if the run is not finished."""
        try:
            result = json.loads((self.folder / RESULT).read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        is_result = isinstance(result, dict) and isinstance(result.get("finished"), str)
        return result if is_result else None

    def conditions(self) -> Conditions | None:
        """Return the conditions that a resume must share; None if an old version did not save them.

        Raises:
            CheckpointError: The file that holds them is damaged.
        """
        path = self.checkpoints / STARTED
        if not path.exists():
            return None
        with reading(path):
            return Conditions(**json.loads(path.read_text("utf-8")))

    def sealed_checkpoints(self) -> list[Path]:
        """Return the checkpoints that were written completely, the newest first."""
        folders = [path for path in self._all_checkpoints() if (path / SEAL).exists()]
        return sorted(folders, key=_step_of, reverse=True)

    def newest_checkpoint(self) -> Path | None:
        """Return the newest checkpoint that has all its bytes; it is not read."""
        sealed = self.sealed_checkpoints()
        return next((path for path in sealed if damaged_file(path, read=False) is None), None)

    def _all_checkpoints(self) -> list[Path]:
        folders = self.checkpoints.glob("checkpoint-*")
        return [path for path in folders if path.name.rpartition("-")[2].isdecimal()]

    @contextmanager
    def lock(self) -> Generator[None]:
        """Keep other processes from writing to the folder, and leave no empty folder behind.

        The lock ends with the process, however that ends; its file may stay in the folder then.

        Raises:
            ConfigError: Another run writes to the folder.
            StorageError: The folder cannot be written, or is a link.
        """
        from filelock import FileLock, Timeout

        # In the folder, not next to it: a killed run leaves nothing outside its own. A lock on the
        # folder itself would need no file, but fails on NFS.
        file = self.folder / LOCK
        if file.is_symlink():
            raise StorageError(f"{file} is a link. Remove it, or give another `out`.")
        # Folders made for the lock alone go with it, so that a refused start leaves no trace.
        missing = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        with storage(self.folder):
            make_folder(self.folder)
            lock = FileLock(file)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise ConfigError(
                    f"Another run is writing to {self.folder}. Wait for it, or give another `out`."
                ) from None
        try:
            yield
        finally:
            with suppress(OSError):  # Windows does not remove an open file
                file.unlink()
            lock.release()
            with suppress(OSError):  # the run wrote something
                for path in missing:
                    path.rmdir()

    def checkpoint_to_resume(self, resume: Resume, overwrite: bool) -> Path | None:
        """Return the checkpoint that a start resumes from, or None if it begins at step 0.

        Nothing is removed yet: that waits until model and data are known to be sound.

        Raises:
            ConfigError: The folder holds a run, and neither setting says what to do with it; or
                there is nothing to resume.
            CheckpointError: All checkpoints are damaged.
            StorageError: The folder holds something that is not a run, or has links in it.
        """
        folder = self.folder
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
        # A start that was killed while it wrote run.toml leaves the first half of it.
        names = {name for name in names if not re.fullmatch(r"run\.toml\.\d+\.partial", name)}
        if not names - {LOCK}:
            if resume == "on":
                raise ConfigError(
                    f"{folder} has no run to resume. Leave `resume` out to start one."
                )
            return None
        if not self.is_run():
            raise StorageError(
                f"{folder} is not a run folder, and is not empty. Give another `out`.",
                setting="out",
            )
        # A link among what is written or removed below would lead the program elsewhere.
        own = [path for path in folder.iterdir() if OWN_FILES.fullmatch(path.name)]
        own += [folder / "tensorboard", self.checkpoints, *self._all_checkpoints()]
        for path in own:
            if path.is_symlink():
                raise StorageError(f"{path} is a link. Remove it, or give another `out`.")
        if self.result() is not None:
            self.remove_checkpoints()  # which a run that was killed in `finish` still has
            if resume != "off":
                again = call("sft", model=folder, out=f"{folder}-2")
                raise ConfigError(
                    f"{folder} is finished: there is nothing to resume. Train it further as a new "
                    f"run, such as {again}."
                )
            if not overwrite:
                raise ConfigError(
                    f"{folder} holds a finished run. Give another `out`, or replace the run with "
                    "`overwrite=True`."
                )
            return None
        sealed = self.sealed_checkpoints()
        # They are read whole here: from a damaged one, training would fail much later, or continue
        # with wrong weights. An older one costs some steps.
        if resume != "off" and sealed:
            newest_damage = damaged_file(sealed[0])
            if newest_damage is None:
                return sealed[0]
            for path in sealed[1:]:
                if damaged_file(path) is None:
                    return path
            raise CheckpointError(
                f"{newest_damage} is damaged, and {folder} has no older checkpoint. "
                "Start over with `overwrite=True`."
            )
        if resume == "on":
            raise ConfigError(f"{folder} has no checkpoint yet. Leave `resume` out to start over.")
        if overwrite:
            return None
        if sealed:
            raise ConfigError(
                f"{folder} holds an unfinished run, saved at step {_step_of(sealed[0])}. "
                'Resume it with `resume="auto"`, or start over with `overwrite=True`.'
            )
        # Without a checkpoint nothing of value is lost, unless the folder holds a model already.
        others = sorted(name for name in names - DEBRIS if not name.endswith(".partial"))
        if others:
            raise ConfigError(
                f"{folder} holds {', '.join(others[:3])}{', …' * (len(others) > 3)} and no "
                "result.json. Give another `out`, or replace the run with `overwrite=True`; files "
                "of your own stay."
            )
        return None

    def is_run(self) -> bool:
        """Say whether the program wrote this folder: nothing else is ever removed."""
        if self.result() is not None or (self.checkpoints / STARTED).exists():
            return True
        try:
            return {"model", "data", "out"} <= self.settings().keys()
        except Gpt2ChatError:
            return False

    def settings_to_resume(
        self, settings: Settings, command: str, given: Mapping[str, str]
    ) -> Settings:
        """Return the run's own settings, with those of `settings` that may change.

        Args:
            given: Settings that the user gave, each with its cause, such as {"lr": "`lr`"}.

        Raises:
            ConfigError: The run is one of the other command, or a given setting differs from it.
            CheckpointError: run.toml is damaged.
        """
        conditions = self.conditions()
        if conditions is not None and conditions.command != command:
            raise ConfigError(
                f"{self.folder} holds an unfinished {conditions.command} run, not one of "
                f"{command}. Give another `out`, or resume it: "
                f"{conditions.resume_call(self.folder)}"
            )
        saved = self.settings()
        entries = [entry for entry in fields(settings) if entry.name not in RESUMABLE_CHANGES]
        values = {entry.name: saved.get(entry.name, entry.default) for entry in entries}
        with reading(self.folder / SETTINGS):
            try:
                own = replace(settings, **values)
            except ConfigError as error:
                raise ConfigError(f"{self.folder / SETTINGS}: {error}") from error
        for name in values:
            old, new = getattr(own, name), getattr(settings, name)
            if name in given and new != old:
                raise ConfigError(
                    f"{self.folder} was started with `{name}={_literal(old)}`, not "
                    f"{_literal(new)}. Leave {given[name]} out to resume it, or start over with "
                    "`overwrite=True`.",
                    setting=name,
                )
        return own

    def require_same(self, now: Conditions, data: Path) -> None:
        """Refuse to resume the run under other conditions than it was started with.

        Raises:
            ConfigError: The number of processes differs.
            DataError: The samples differ.
        """
        saved = self.conditions()
        if saved is None:
            return
        if (saved.processes, saved.sharded) != (now.processes, now.sharded):
            raise ConfigError(
                f"{self.folder} was started with {saved}; resuming with {now} would change the "
                f"training steps. Resume with: {saved.resume_call(self.folder)}"
            )
        if saved.samples != now.samples:
            raise DataError(
                f"{data} holds other samples than {self.folder} was started with. Prepare the same "
                "data again, or start over with `overwrite=True`."
            )

    def start(self, settings: TrainConfig, conditions: Conditions) -> None:
        """Remove the files of an earlier run, and write the settings of this one.

        Killed at any moment it leaves a folder that the same call takes again: result.json goes
        first, so that half a run never looks finished, and run.toml is replaced, never missing.

        Raises:
            StorageError: The disk is full or the folder cannot be written.
        """
        with storage(self.folder):
            make_folder(self.folder)
            (self.folder / RESULT).unlink(missing_ok=True)
            self.remove_checkpoints()
            # run.toml stays until it is replaced: it is what marks the folder as a run.
            for path in self.folder.iterdir():
                own = OWN_FILES.fullmatch(path.name) and path.name != SETTINGS
                if own and not path.is_dir():
                    path.unlink()
            events = self.folder / "tensorboard"
            for path in events.glob("events.out.tfevents.*"):
                path.unlink()
            with suppress(OSError):  # it holds a file of the user's, or is not there
                events.rmdir()
        plain = replace(settings, resume="off", overwrite=False, dry_run=False)
        write_text(self.folder / SETTINGS, to_toml(plain))
        write_text(self.checkpoints / STARTED, json.dumps(asdict(conditions)) + "\n")

    def seal(self, checkpoint: Path) -> None:
        """Mark a checkpoint as complete, once all of it is on the disk.

        Raises:
            StorageError: The disk is full.
        """
        entries: dict[str, dict[str, Any]] = {}
        # The step may have been saved before, by a start that was killed.
        (checkpoint / SEAL).unlink(missing_ok=True)
        for path in sorted(checkpoint.rglob("*")):
            if path.is_file():
                # On the disk before the seal that vouches for it is.
                with storage(path), path.open("rb+") as file:
                    os.fsync(file.fileno())
                    # Sizes miss damage within a file, and CRC32 is not meant against edits.
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                name = path.relative_to(checkpoint).as_posix()
                entries[name] = {"size": path.stat().st_size, "sha256": digest}
        write_text(checkpoint / SEAL, json.dumps(entries) + "\n")

    def prune(self, best: int | None) -> None:
        """Remove all checkpoints but two sealed ones: the newest, and that of step `best` or, where
        it is the same or there is none, the one before."""
        sealed = [_step_of(path) for path in self.sealed_checkpoints()]
        ranked = [*sealed[:1], *(step for step in sealed if step == best), *sealed]
        keep = list(dict.fromkeys(ranked))[:CHECKPOINTS_KEPT]
        for path in self._all_checkpoints():
            if _step_of(path) not in keep:
                _remove_checkpoint(path)

    def remove_unsealed(self) -> None:
        """Remove incomplete checkpoints, such as those left by a full disk."""
        for path in self._all_checkpoints():
            if not (path / SEAL).exists():
                _remove_checkpoint(path)

    def remove_damaged(self, resumed: Path) -> None:
        """Remove every checkpoint that cannot be resumed from.

        Args:
            resumed: What `checkpoint_to_resume` returned: it has read this one and those after it,
                and reading takes seconds.
        """
        self.remove_unsealed()
        for path in self.sealed_checkpoints():
            later = _step_of(path) > _step_of(resumed)
            if later or (path != resumed and damaged_file(path) is not None):
                _remove_checkpoint(path)

    def remove_checkpoints(self) -> None:
        """Remove all checkpoints; a file that is not the program's keeps its folder."""
        for path in self._all_checkpoints():
            _remove_checkpoint(path)
        for path in self.checkpoints.glob(f"{STARTED}*"):
            path.unlink()
        with suppress(OSError):
            self.checkpoints.rmdir()

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json, the mark of a finished run, and remove the checkpoints.

        Raises:
            StorageError: The disk is full.
        """
        text = json.dumps(result, indent=2, default=str, allow_nan=False)
        write_text(self.folder / RESULT, text + "\n")
        with storage(self.folder):
            self.remove_checkpoints()
            for path in self.folder.glob("*.partial"):  # of a start that was killed
                if OWN_FILES.fullmatch(path.name):
                    path.unlink()


def _literal(value: object) -> str:
    return str(value) if isinstance(value, bool | int | float) else json.dumps(str(value))


@dataclass(frozen=True, kw_only=True)
class Start:
    """A run that is open for writing: where, with which settings, and from which step."""

    run: Run
    settings: Any
    """An SftConfig or OrpoConfig; on a resume the run's own."""
    checkpoint: Path | None
    """Checkpoint that it resumes from; None if it begins at step 0."""


@contextmanager
def open_run(
    settings: TrainConfig, command: str, given: Mapping[str, str] | None = None
) -> Generator[Start]:
    """Lock the run folder of `settings.out` and say where the run begins; for a dry run, do not.

    Args:
        given: Settings that the user gave, each with its cause; by default those that differ from
            their defaults. On a resume they must be the run's own.

    Raises:
        ConfigError: The folder is taken, or another run writes to it, or there is nothing to
            resume, or the run was started otherwise.
        CheckpointError: All checkpoints, or the settings of the run, are damaged.
        StorageError: The folder cannot be written, or is not a run folder.
    """
    run, data = Run(settings.out), settings.data
    if given is None:
        names = [entry.name for entry in fields(settings)]
        defaults = {entry.name: entry.default for entry in fields(settings)}
        given = {name: f"`{name}`" for name in names if getattr(settings, name) != defaults[name]}
    out = run.folder.resolve()
    if run.folder.is_symlink():
        raise StorageError(
            f"{run.folder} is a link, to {out}. Give that folder itself.", setting="out"
        )
    if out.is_relative_to(data.resolve()) or data.resolve().is_relative_to(out):
        raise ConfigError(
            f"{run.folder} and {data} must be two folders, neither within the other: each is "
            "emptied when it is written anew. Give another `out`."
        )
    # A dry run writes nothing, so it takes no lock and may look at a run that is being trained.
    if settings.dry_run:
        checkpoint = run.newest_checkpoint() if settings.resume != "off" else None
        if checkpoint is not None:
            settings = run.settings_to_resume(settings, command, given)
        yield Start(run=run, settings=settings, checkpoint=checkpoint)
        return
    # Of several processes the first writes, and keeps the others' lock.
    leads = os.environ.get("RANK", "0") == "0"
    with run.lock() if leads else nullcontext():
        checkpoint = run.checkpoint_to_resume(settings.resume, settings.overwrite)
        if checkpoint is not None:
            settings = run.settings_to_resume(settings, command, given)
        yield Start(run=run, settings=settings, checkpoint=checkpoint)


def damaged_file(checkpoint: Path, *, read: bool = True) -> Path | None:
    """Return a file of a sealed checkpoint that is not as it was written; None where all are.

    Args:
        read: Compare what the files hold, not only their sizes. GPT-2's checkpoint of 1.5 GB takes
            1-3 s.
    """
    try:
        entries: dict[str, Any] = json.loads((checkpoint / SEAL).read_text("utf-8"))
        for name, entry in entries.items():
            path = checkpoint / name
            # Old versions sealed the sizes alone.
            sizes_only = isinstance(entry, int)
            size, digest = (entry, None) if sizes_only else (entry["size"], entry["sha256"])
            try:
                if path.stat().st_size != size:  # at once, without reading the file
                    return path
                if read and digest is not None:
                    with path.open("rb") as file:
                        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                            return path
            except OSError:
                return path
    except (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError):
        return checkpoint / SEAL
    path = checkpoint / TRAINER_STATE
    # All that a resume reads of it is checked here: transformers takes whatever the file holds, and
    # fails much later, or stops at another step.
    try:
        state = json.loads(path.read_text("utf-8"))
        history, callbacks = state["log_history"], state["stateful_callbacks"]
        is_sound = (
            state["global_step"] == _step_of(checkpoint)
            and isinstance(state["max_steps"], int)
            and isinstance(state["epoch"], int | float)
            and all(isinstance(state[name], int | float | None) for name in BEST)
            and all(isinstance(line["step"], int) for line in history)
            and all(
                isinstance(value, int | float | None) for line in history for value in line.values()
            )
            and all(isinstance(value, dict) for value in callbacks.values())
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return path
    return None if is_sound else path


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _remove_checkpoint(folder: Path) -> None:
    # Without its seal, what a kill leaves of it does not count as a checkpoint.
    (folder / SEAL).unlink(missing_ok=True)
    shutil.rmtree(folder)


def newest_run(commands: Iterable[str], runs: Path = RUNS) -> Path | None:
    """Return the run folder under `runs` that one of `commands` finished last."""
    wanted = set(commands)
    finished: list[tuple[str, Path]] = []
    with reading(runs):
        folders = sorted(runs.iterdir()) if runs.is_dir() else []
    for folder in folders:
        # By the date in result.json: the folder's own changes with a copy, or with eval.json.
        result = Run(folder).result()
        if result is not None and result.get("command") in wanted:
            finished.append((result["finished"], folder))
    return max(finished, default=(None, None))[1]


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One run in a list of runs. Fields that a damaged run does not reveal are None."""

    folder: Path
    state: Literal["finished", "unfinished", "damaged"]
    problem: str | None
    """What is wrong with a damaged run."""
    command: str | None
    """`sft` or `orpo`."""
    model: str | None
    """The model that it started from."""
    data: str | None
    step: int | None
    """Steps of a finished run; else the step of the newest checkpoint, if there is one."""
    loss: float | None
    """Mean training loss of the last tenth of the steps."""
    validation_loss: float | None
    finished: str | None
    """Date and time, UTC, ISO 8601."""


def list_runs(folder: Path = RUNS) -> list[RunSummary]:
    """Return the runs in a folder, or the folder itself if it is a run, by name.

    Sizes are compared, contents are not read: a list should not take seconds for each run.

    Raises:
        ConfigError: There is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}. Train a model with `sft()` first.")
    with reading(folder, ConfigError):
        folders = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    summaries: list[RunSummary] = []
    for run in map(Run, folders):
        # A folder that may not be read is no reason to withhold the others.
        if not os.access(run.folder, os.X_OK) or not run.is_run():
            continue
        problem, settings, conditions, step = None, dict[str, Any](), None, None
        result = run.result() or {}
        try:
            settings, conditions = run.settings(), run.conditions()
        except CheckpointError as error:
            problem = str(error)
        if result:
            step, problem = result.get("steps"), problem or _damage_of_weights(run.folder)
        elif sealed := run.sealed_checkpoints():
            newest = run.newest_checkpoint()
            step = None if newest is None else _step_of(newest)
            if newest is None:
                problem = problem or f"{damaged_file(sealed[0], read=False)} is damaged."
        command = result.get("command") or (conditions.command if conditions else None)
        # A figure that is not a number counts as absent: one edited file must not fail the list.
        figures = (result.get(name) for name in ("loss", "validation_loss"))
        loss, validation = (value if isinstance(value, int | float) else None for value in figures)
        texts = (settings.get(name) for name in ("model", "data"))
        model, data = (str(value) if value is not None else None for value in texts)
        summaries.append(
            RunSummary(
                folder=run.folder,
                state="damaged" if problem else "finished" if result else "unfinished",
                problem=problem,
                command=None if command is None else str(command),
                model=model,
                data=data,
                step=step if isinstance(step, int) else None,
                loss=loss,
                validation_loss=validation,
                finished=str(result["finished"]) if result else None,
            )
        )
    return summaries


def _damage_of_weights(folder: Path) -> str | None:
    """Return what is wrong with a model's safetensors files, from their headers and sizes."""
    paths = sorted(
        path for path in folder.glob("*model*.safetensors") if OWN_FILES.fullmatch(path.name)
    )
    if not paths:
        return f"{folder / 'model.safetensors'} is missing."
    try:
        for path in paths:
            with reading(path), path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if length > path.stat().st_size:
                    raise ValueError("its header is cut off")
                header: dict[str, Any] = json.loads(file.read(length))
                ends = [entry["data_offsets"][1] for name, entry in header.items()
                        if name != "__metadata__"]  # fmt: skip
                if path.stat().st_size != 8 + length + max(ends, default=0):
                    raise ValueError("its size is not that of its tensors")
    except CheckpointError as error:
        return str(error)
    return None

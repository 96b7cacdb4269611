"""The result of an evaluation: what it holds, how it prints, and the file that keeps it."""

import json
import os
from collections.abc import Generator
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any, cast

from gpt2chat.core.config.evaluation import EvalConfig
from gpt2chat.core.errors import StorageError
from gpt2chat.core.evaluation.figures import FIGURES
from gpt2chat.core.evaluation.heldout import SampleCounts
from gpt2chat.core.evaluation.replies import Replies
from gpt2chat.core.evaluation.speed import Speed
from gpt2chat.core.evaluation.statistics import Estimate
from gpt2chat.core.files import json_text, write_text

RESULT_FILE = "eval.json"


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """The figures of one model."""

    model: str
    parameters: int
    flops_per_token: int
    """Of a forward pass at a context of `flops_context` tokens, logits included."""
    flops_context: int
    figures: dict[str, Estimate]
    """By the keys of `figures.FIGURES`."""
    speed: Speed | None
    replies: Replies | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The figures of the first model minus those of another, paired by sample."""

    model: str
    against: str
    figures: dict[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluate` returns, and one entry of `eval.json`."""

    settings: EvalConfig
    models: tuple[ModelResult, ...]
    differences: tuple[Difference, ...]
    split: str
    data_sha256: str
    """Hash of the shards of the held-out split; empty if no figure needs data."""
    samples: SampleCounts
    prompts: tuple[str, ...]
    """Latest user messages of the held-out prompts that each model replied to, in order."""
    notes: tuple[str, ...]
    """What could not be measured as asked, and why."""
    device: str
    precision: str
    interval: str
    """How the intervals were computed."""
    versions: dict[str, str]
    seconds: float
    finished: str
    """Date and time, UTC, ISO 8601."""
    path: Path
    """The file that keeps the result."""

    def __str__(self) -> str:
        rows = [("", *(model.model for model in self.models)), *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = (
            "  ".join(
                cell.rjust(width) if at else cell.ljust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )
        return "\n".join([*lines, "", f"{self.interval}. Written to {self.path}"])

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        names = "".join(f"<th>{escape(model.model)}</th>" for model in self.models)
        body = "".join(
            f"<tr><th>{escape(label)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
            for label, *cells in self._rows()
        )
        notes = f"<p>{escape(self.interval)}. Written to {escape(str(self.path))}</p>"
        return f"<table><tr><th></th>{names}</tr>{body}</table>{notes}"

    def _rows(self) -> Generator[tuple[str, ...]]:
        for name, figure in FIGURES.items():
            if name in self.models[0].figures:
                estimates = (model.figures[name] for model in self.models)
                yield figure.label, *(each.text(f",.{figure.digits}f") for each in estimates)
        yield "parameters", *(f"{model.parameters:,}" for model in self.models)
        if self.settings.speed:
            speeds = (model.speed and model.speed.decode for model in self.models)
            yield "decode, tokens/s", *(f"{each.median:,.1f}" if each else "-" for each in speeds)


def result_path(settings: EvalConfig) -> tuple[Path, str | None]:
    """Return the file for the results, and a note if it is not where a reader would look.

    That is `out`, or else eval.json in the model's folder. The results of the bundled model, of a
    name on the Hub and of a folder that cannot be written go into the current folder.
    """
    if settings.out is not None:
        return settings.out / RESULT_FILE if settings.out.is_dir() else settings.out, None
    folder = Path(settings.model)
    if settings.model == "starter" or not folder.is_dir():
        return Path(RESULT_FILE), None
    if os.access(folder, os.W_OK):
        return folder / RESULT_FILE, None
    return Path(RESULT_FILE), (
        f"{folder} is read-only: the results go into {RESULT_FILE} in the current folder"
    )


def require_writable(path: Path) -> None:
    """Refuse before the measurement a file that could not be written after it.

    Raises:
        StorageError: Its folder, or the first above it that exists, cannot be written, or the file
            holds something else than results.
    """
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise StorageError(
            f"Cannot write {path}: {folder} is not a folder that you can write to. "
            "Choose another file with `out`.",
            setting="out",
        )
    read_results(path)


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return the results that a file keeps, newest first; none if there is no file.

    Raises:
        StorageError: The file holds something else.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if "models" in content:  # as earlier versions wrote it: one result, not a list
            return [content]
        return [dict(entry) for entry in content["evaluations"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise StorageError(
            f"{path} exists and does not hold results of `evaluate()`. Choose another file with "
            "`out`, or move that one away.",
            setting="out",
        ) from error


def write_result(evaluation: Evaluation) -> None:
    """Add a result to its file, in place of an earlier one that measured the same.

    Results of other models, data, settings or devices stay.

    Raises:
        StorageError: The file cannot be written, or holds something else.
    """
    new = cast(dict[str, Any], json.loads(json_text(asdict(evaluation))))
    earlier = read_results(evaluation.path)
    others = [entry for entry in earlier if _measured(entry) != _measured(new)]
    write_text(evaluation.path, json_text({"evaluations": [new, *others]}) + "\n")


def _measured(entry: dict[str, Any]) -> tuple[object, ...]:
    """Return what makes two results comparable: they differ by chance or by version only."""
    settings = entry.get("settings")
    if not isinstance(settings, dict):
        return (entry,)
    # `device` below is the one that "auto" stood for.
    asked = {
        name: value
        for name, value in cast(dict[str, Any], settings).items()
        if name not in ("out", "device")
    }
    return asked, *(entry.get(key) for key in ("data_sha256", "device", "precision"))

"""Define the result of an evaluation, print it, and keep it in a file with earlier ones."""

import json
import os
from collections.abc import Generator
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any, cast

from gpt2chat.core.config.evaluation import EvalConfig
from gpt2chat.core.display import html_table, text_table
from gpt2chat.core.errors import StorageError
from gpt2chat.core.evaluation.figures import CalibrationPoint, describe
from gpt2chat.core.evaluation.heldout import SampleCounts
from gpt2chat.core.evaluation.replies import Replies
from gpt2chat.core.evaluation.speed import Speed
from gpt2chat.core.evaluation.statistics import Estimate
from gpt2chat.core.files import json_text, write_text
from gpt2chat.core.text.bounded_json import parse_json

RESULT_FILE = "eval.json"


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """The figures of one model."""

    model: str
    sha256: str
    """Hash of the weights and their settings, those of an adapter's base included."""
    parameters: int
    flops_per_token: int
    """Floating-point operations per token of a forward pass, logits included, at a context of
    `flops_context` tokens."""
    flops_context: int
    figures: dict[str, Estimate]
    """The estimates on the first data folder, under the names that `figures.describe` knows."""
    further: dict[str, dict[str, Estimate]]
    """The same for each further data folder."""
    calibration: tuple[CalibrationPoint, ...]
    """How often the model is right about a pair, by how sure it is, on the first data folder."""
    speed: Speed | None
    replies: Replies | None


@dataclass(frozen=True)
class Difference:
    """The figures of the first model minus those of another, paired by sample."""

    model: str
    against: str
    figures: dict[str, Estimate]
    """On the first data folder."""
    further: dict[str, dict[str, Estimate]]
    """On each further one."""


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
    """The samples of the first data folder."""
    further_samples: dict[str, SampleCounts]
    """Those of each further one."""
    prompts: tuple[str, ...]
    """Latest user messages of the prompts that each model replied to: the fixed questions, then
    those of held-out prompts."""
    notes: tuple[str, ...]
    """Figures that could not be measured as asked, each with the reason."""
    device: str
    precision: str
    interval: str
    """How the intervals were computed."""
    versions: dict[str, str]
    seconds: float
    finished: str
    """Date and time of the end, UTC, ISO 8601."""
    path: Path
    """The file that keeps the result."""

    def __str__(self) -> str:
        return f"{text_table(self._rows())}\n\n{self.interval}. Written to {self.path}"

    def _repr_html_(self) -> str:
        note = f"{self.interval}. Written to {self.path}"
        return f"{html_table(self._rows())}<p>{escape(note)}</p>"

    def _rows(self) -> Generator[tuple[str, ...]]:
        yield "", *(model.model for model in self.models)
        by_data = [{self.settings.data[0]: model.figures, **model.further} for model in self.models]
        for data in self.settings.data:
            if len(self.settings.data) > 1:
                yield f"[{data}]", *("" for _ in self.models)
            for name in by_data[0][data]:
                figure = describe(name)
                estimates = (figures[data][name] for figures in by_data)
                yield figure.label, *(each.text(f",.{figure.digits}f") for each in estimates)
        yield "parameters", *(f"{model.parameters:,}" for model in self.models)
        if self.settings.speed:
            speeds = (model.speed and model.speed.decode for model in self.models)
            yield "decode, tokens/s", *(f"{each.median:,.1f}" if each else "-" for each in speeds)


def result_path(settings: EvalConfig) -> tuple[Path, str | None]:
    """Return the file for the results, and a note if it is not where a reader would look.

    That is `out`, or else eval.json in the model's folder. The results of the bundled model, of a
    name on the Hub and of a read-only folder go into the current folder.

    Raises:
        StorageError: The file could not be written after the measurement, or its content is not
            the results of an evaluation.
    """
    path, note = Path(RESULT_FILE), None
    folder = Path(settings.model)
    if settings.out is not None:
        path = settings.out / RESULT_FILE if settings.out.is_dir() else settings.out
    elif settings.model != "starter" and folder.is_dir():
        if os.access(folder, os.W_OK):
            path = folder / RESULT_FILE
        else:
            note = f"{folder} is read-only: the results go into {RESULT_FILE} in the current folder"
    # `write_text` creates missing folders, so the nearest one that exists must be writable.
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise StorageError(
            f"Cannot write {path}: {parent} is not a folder that you can write to. "
            "Choose another file with `out`.",
            setting="out",
        )
    # Read now, so that a file of something else is noticed before the measurement.
    read_results(path)
    return path, note


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return the results in a file, newest first; none if the file does not exist.

    Raises:
        StorageError: The content is not the results of an evaluation.
    """
    try:
        content: Any = parse_json(path.read_text(encoding="utf-8"))
        if "models" in content:  # earlier versions wrote a single result, not a list
            return [content]
        return [dict(entry) for entry in content["evaluations"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StorageError(
            f"{path} exists, but its content is not the results of `evaluate()`. Choose another "
            "file with `out`, or move that one away.",
            setting="out",
        ) from error


def write_result(evaluation: Evaluation) -> None:
    """Add a result to its file, replacing an earlier one of the same measurement.

    Results of other models, data, settings or devices stay.

    Raises:
        StorageError: The file cannot be written, or its content is not the results of an
            evaluation.
    """
    # As it will be read from the file, where tuples are lists and paths are texts.
    new = cast(dict[str, Any], json.loads(json_text(asdict(evaluation))))
    # Read again: another evaluation may have written it since `result_path` did.
    earlier = read_results(evaluation.path)
    others = [entry for entry in earlier if _identity(entry) != _identity(new)]
    write_text(evaluation.path, json_text({"evaluations": [new, *others]}) + "\n")


def _identity(entry: dict[str, Any]) -> tuple[object, ...]:
    """Return what two results share if they differ only by chance or by version."""
    settings = entry.get("settings")
    if not isinstance(settings, dict):
        return (entry,)  # it is like no other, so it stays
    # The setting `device` may be "auto"; the entry's own `device` names the actual one.
    settings = {
        name: value
        for name, value in cast(dict[str, Any], settings).items()
        if name not in ("out", "device")
    }
    # By hash: a run that was trained again has the same name and other weights.
    models = [cast(dict[str, Any], model).get("sha256") for model in entry["models"]]
    return settings, models, *(entry.get(key) for key in ("data_sha256", "device", "precision"))

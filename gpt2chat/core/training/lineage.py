"""Where a model comes from: the runs that it went through, back to its base, and its licence."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gpt2chat.core.errors import CheckpointError
from gpt2chat.core.model.names import is_hub_name
from gpt2chat.core.runs import Run

OPENAI_MODELS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
"""OpenAI's models, under the MIT licence."""
PERMISSIVE_DATA = ("OpenAssistant/oasst1", "trl-lib/ultrafeedback_binarized")
"""Data sets under Apache-2.0 and MIT, which do not restrict a model trained on them."""
ALPACA = "tatsu-lab/alpaca"
"""Data set under CC BY-NC 4.0; its authors apply that to models trained on it too."""


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A model that another was made from."""

    model: str
    """A folder, a name on the Hub or `starter`."""
    data: str
    """The folder that it was trained on; empty if it is not a run."""


def ancestors(model: str) -> list[Ancestor]:
    """Return a model and those it was made from, as their run.toml says; the base comes last."""
    lineage: list[Ancestor] = []
    # A run.toml that names its own folder, directly or through others, would never end.
    while model and all(model != ancestor.model for ancestor in lineage):
        try:
            run = Run(Path(model)).settings()
        except CheckpointError:
            run = {}
        lineage.append(Ancestor(model, str(run.get("data", ""))))
        model = str(run.get("model", ""))
    return lineage


def hub_base(model: str) -> str | None:
    """Return the base model's name on the Hub; None if it is a folder or `starter`."""
    base = ancestors(model)[-1].model
    return base if is_hub_name(base) else None


def licence(model: str, data: Path, inputs: Iterable[str]) -> str | None:
    """Return the licence of a model trained from another, by the Hub's name for it.

    Args:
        inputs: Names of all sources of the data folder.

    Returns:
        None if it is not known: the base is not OpenAI's, or this run or an earlier one used other
        data.
    """
    base, names = hub_base(model), set(inputs)
    other_data = {ancestor.data for ancestor in ancestors(model)} - {"", str(data)}
    # The data of this run is known by its sources; of earlier ones only the folder's name is left.
    is_openai = base is not None and base.removeprefix("openai-community/") in OPENAI_MODELS
    if not is_openai or other_data or not names <= {*PERMISSIVE_DATA, ALPACA}:
        return None
    return "cc-by-nc-4.0" if ALPACA in names else "mit"

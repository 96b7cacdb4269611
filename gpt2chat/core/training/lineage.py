"""Where a model comes from: the runs that it went through, back to its base, and its licence."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gpt2chat.core.errors import CheckpointError
from gpt2chat.core.model.names import is_hub_name
from gpt2chat.core.runs import Run

GPT2 = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
"""OpenAI's, under the MIT licence."""
FREE = ("OpenAssistant/oasst1", "trl-lib/ultrafeedback_binarized")
"""Data sets whose licences, Apache-2.0 and MIT, leave the model its own."""
ALPACA = "tatsu-lab/alpaca"
"""CC BY-NC 4.0, which its authors say of models trained on it too."""


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A model that another was made from."""

    model: str
    """A folder, a name on the Hub or `starter`."""
    data: str
    """The folder that it was trained on; empty where it is no run."""


def ancestors(model: str) -> list[Ancestor]:
    """Return a model and those that it was made from, the base last, as their run.toml say."""
    found: list[Ancestor] = []
    while model and all(model != known.model for known in found):
        try:
            run = Run(Path(model)).settings()
        except CheckpointError:
            run = {}
        found.append(Ancestor(model, str(run.get("data", ""))))
        model = str(run.get("model", ""))
    return found


def hub_base(model: str) -> str | None:
    """Return the base model's name on the Hub; None where it is a folder or `starter`."""
    base = ancestors(model)[-1].model
    return base if is_hub_name(base) else None


def licence(model: str, data: Path, inputs: Iterable[str]) -> str | None:
    """Return the licence of a model made from another, by the Hub's name for it.

    Args:
        inputs: Names of all that the data folder was made of.

    Returns:
        None where that is not known: of another base, or other data here or in a run before.
    """
    base, names = hub_base(model), set(inputs)
    elsewhere = {known.data for known in ancestors(model)} - {"", str(data)}
    known = base is not None and base.removeprefix("openai-community/") in GPT2
    if not known or elsewhere or not names <= {*FREE, ALPACA}:
        return None
    return "cc-by-nc-4.0" if ALPACA in names else "mit"

"""Choose the model of a run and check its settings on disk, before torch is loaded."""

import importlib.util
from dataclasses import replace

from gpt2chat.core.config.training import TrainConfig
from gpt2chat.core.data.shards import read_manifest
from gpt2chat.core.errors import ConfigError
from gpt2chat.core.model.names import local_folder, pick_model
from gpt2chat.core.runs import Start


def choose_model(start: Start) -> tuple[Start, str]:
    """Return an open run with its model, and a text for the user: which model, and why.

    A run that names no model starts from the newest finished SFT run.

    Raises:
        CheckpointError: No model is named, and no SFT run is finished.
    """
    name, why = pick_model(start.settings.model, ("sft",))
    return replace(start, settings=replace(start.settings, model=name)), why


def check_inputs(settings: TrainConfig) -> None:
    """Refuse a tracker that is not installed, a model folder that is missing, and missing data.

    Raises:
        ConfigError: A tracker is not installed.
        CheckpointError: The model is a path that does not lead to a folder.
        DataError: There is no data folder.
    """
    for name in settings.report_to:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"The tracker {name} is not installed. Run pip install {name}.", setting="report_to"
            )
    local_folder(settings.model)
    read_manifest(settings.data)

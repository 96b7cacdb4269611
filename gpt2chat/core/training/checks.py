"""Refuse what a run cannot start with, before torch is loaded."""

from gpt2chat.core.config.training import TrainConfig
from gpt2chat.core.data.shards import read_manifest
from gpt2chat.core.model.names import local_folder
from gpt2chat.core.training.trackers import require_trackers


def check_inputs(settings: TrainConfig) -> None:
    """Refuse a tracker that is not installed, a model folder that is missing, and missing data.

    Raises:
        ConfigError: A tracker is not installed.
        CheckpointError: The model is a path that does not lead to a folder.
        DataError: There is no data folder.
    """
    require_trackers(settings.report_to)
    local_folder(settings.model)
    read_manifest(settings.data)

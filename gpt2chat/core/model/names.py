"""Resolve the name of a model: `starter`, a run, a model folder, an adapter or a name on the Hub.

This is quick, because it reads only folders and JSON files; weights.py and load.py read weights.
"""

import difflib
import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2chat.core.errors import CheckpointError, NetworkError, StorageError
from gpt2chat.core.files import STARTER
from gpt2chat.core.model.folder import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    CONFIG,
    INDEX,
    WEIGHTS,
    check_vocabulary,
    read_config,
    read_object,
    read_vocabulary,
    require_weights,
    why_no_weights,
)
from gpt2chat.core.runs import RUNS, newest_run
from gpt2chat.core.text.tokens import SPECIAL_IDS

BASE_MODELS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")
"""Names on the Hub, without their owner, of models that were not trained on a chat template."""
HUB_FILES = (
    *(CONFIG, WEIGHTS, INDEX, "model-*.safetensors", ADAPTER, ADAPTER_WEIGHTS),
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "added_tokens.json"),
)
"""Files that are downloaded: never a pickle, and nothing in sub-folders."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model whose files are on this machine."""

    name: str
    """The name that the user gave."""
    path: Path
    """The folder of its files; for a name on the Hub, a folder in the Hub's cache."""
    window: int
    """Positions: the most tokens that it reads and writes together."""
    is_chat: bool
    """It was trained on the chat template. If not, it is a base model, which continues texts."""
    base: "ModelFolder | None" = None
    """The model that it is an adapter of; None if it is not an adapter."""

    @property
    def lineage(self) -> "list[ModelFolder]":
        """The model, the base of its adapter, and so on."""
        return [self, *(self.base.lineage if self.base else ())]


def resolve_model(name: str) -> ModelFolder:
    """Return the model of a name, and download it if it is a name on the Hub.

    Raises:
        CheckpointError: There is no such folder, or its files are not those of a GPT-2.
        NetworkError: The model cannot be downloaded from the Hub.
        StorageError: The Hub's cache cannot be written.
    """
    return _resolve(name, local_folder(name) or download(name))


def find_model(name: str) -> ModelFolder | None:
    """Return the model of a name; None if it would have to be downloaded.

    Raises:
        CheckpointError: There is no such folder, or its files are not those of a GPT-2.
    """
    folder = local_folder(name)
    if folder is None:
        return None
    base = adapter_base(folder)
    if base is not None and local_folder(base) is None:
        return None
    return _resolve(name, folder)


def _resolve(name: str, folder: Path, above: tuple[Path, ...] = ()) -> ModelFolder:
    """Return the model in a folder.

    Args:
        above: Folders of the adapters that lead to it, to detect a circle.
    """
    base_name = adapter_base(folder)
    if base_name is None:
        config = read_config(folder, name)
        is_chat = check_vocabulary(folder, config, name)
        require_weights(folder, name, WEIGHTS)
        return ModelFolder(name, folder, config["n_positions"], is_chat)
    if folder.resolve() in above:
        raise CheckpointError(
            f"{folder / ADAPTER} leads back to itself: the adapter has no base model. "
            "Write its base into base_model_name_or_path.",
            setting="model",
        )
    require_weights(folder, name, ADAPTER_WEIGHTS)
    try:
        place = local_folder(base_name)
    except CheckpointError as error:
        # Runs are often moved together, which leaves the base next to its adapter.
        moved = folder.resolve().parent / Path(base_name).name
        hint = f", such as {moved}" if moved.is_dir() and moved != folder.resolve() else ""
        raise CheckpointError(
            f"{name} is an adapter of {base_name}, which is gone. Put that folder back, or write "
            f"where it is now{hint}, into base_model_name_or_path in {folder / ADAPTER}.",
            setting="model",
        ) from error
    base = _resolve(base_name, place or download(base_name), (*above, folder.resolve()))
    # An adapter of a base model may have been trained on the template, and then has its tokens.
    has_template = SPECIAL_IDS.items() <= read_vocabulary(folder)[2].items()
    return ModelFolder(name, folder, base.window, base.is_chat or has_template, base)


def adapter_base(folder: Path) -> str | None:
    """Return the base model's name of the adapter in a folder; None if there is no adapter.

    Raises:
        CheckpointError: The adapter's settings cannot be read, or name no base.
    """
    file = folder / ADAPTER
    # If a merged model was saved next to its adapter, the merged model counts.
    if not file.exists() or (folder / CONFIG).exists():
        return None
    base = read_object(file).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError(
            f"{file} does not name the adapter's base model. Write it into "
            "base_model_name_or_path.",
            setting="model",
        )
    return base


def local_folder(name: str) -> Path | None:
    """Return the folder of a model's name; None if it is a name on the Hub.

    Raises:
        CheckpointError: It is the path of a folder that does not exist or cannot be read.
    """
    if name == "starter":
        return STARTER
    if not name:
        raise CheckpointError("The name of the model is empty.", setting="model")
    folder = Path(name).expanduser() if name.startswith("~") else Path(name)
    try:
        mode = folder.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if is_path(name):
            raise CheckpointError(
                f"There is no folder {name}. {_suggestion(name)}", setting="model"
            ) from None
        return None
    except (OSError, ValueError) as error:  # ValueError: the name has a zero byte
        why = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"Cannot read {name!r}: {why}.", setting="model") from error
    if not stat.S_ISDIR(mode):
        raise CheckpointError(
            f"{name} is a file. Choose the folder that it is in.", setting="model"
        )
    try:
        name.encode()
    except UnicodeEncodeError:  # safetensors and tokenizers read from no such path
        raise CheckpointError(
            f"The name of the folder {name!r} is not valid UTF-8. Rename it.", setting="model"
        ) from None
    if not os.access(folder, os.R_OK | os.X_OK):
        raise CheckpointError(f"Cannot read {name}: {os.strerror(errno.EACCES)}.", setting="model")
    return folder


def is_path(name: str) -> bool:
    """Return whether a name must be a path: names on the Hub have at most one slash."""
    return name.count("/") > 1 or name.startswith((".", "/", "~", f"{RUNS}/"))


def is_hub_name(name: str) -> bool:
    """Return whether a name is one on the Hub: not `starter`, and not a folder."""
    return name != "starter" and not is_path(name) and not Path(name).exists()


def is_base_model(name: str) -> bool:
    """Return whether a model was never trained on the chat template, without downloading it.

    For a model that is not on this machine, the name decides.

    Raises:
        CheckpointError: There is no such folder, or its files are not those of a GPT-2.
    """
    model = find_model(name)
    return name.rpartition("/")[2] in BASE_MODELS if model is None else not model.is_chat


def is_model_folder(name: str) -> bool:
    """Return whether a name is that of a model on this machine."""
    # Unlike Path.is_file, this does not fail on a name that is too long for a file, such as a
    # message in a chat.
    files = (os.path.join(name, file) for file in (CONFIG, ADAPTER))
    return name == "starter" or any(map(os.path.isfile, files))


def known_models() -> list[str]:
    """Return the names of the models on this machine: the runs under runs/, and `starter`."""
    try:
        folders = sorted(RUNS.iterdir())
    except OSError:  # it does not exist, or may not be read
        folders = []
    return [*(str(folder) for folder in folders if is_model_folder(str(folder))), "starter"]


def pick_model(name: str, commands: Iterable[str]) -> tuple[str, str]:
    """Return the name of the model to use and, for the user, the reason.

    Args:
        name: The name that the user gave; empty for the newest finished run of `commands`.

    Raises:
        CheckpointError: The name is empty, and no run is finished.
    """
    if name:
        return name, f"model: {name}"
    run = newest_run(commands)
    if run is None:
        kinds = " or ".join(commands)
        raise CheckpointError(
            f"There is no finished {kinds} run under {RUNS}/. Train one with `sft()`, or choose a "
            "`model`.",
            setting="model",
        )
    return str(run), f"model: {run} (newest finished run)"


def _suggestion(name: str) -> str:
    """Return the model that a mistyped name may mean, and all models on this machine."""
    models = known_models()
    nearest = difflib.get_close_matches(name, models, n=1) or [
        model for model in models if Path(model).name == Path(name).name
    ]
    meant = f"Did you mean {nearest[0]}? " if nearest else ""
    rest = len(models) - 8
    more = f" and {rest} more" if rest > 0 else ""
    return f"{meant}Models here: {', '.join(models[:8])}{more}."


def download(name: str) -> Path:
    """Return the local copy of a model on the Hub.

    Raises:
        CheckpointError: It cannot be a name on the Hub.
        NetworkError: The name does not exist, access is denied, or there is no network.
        StorageError: The Hub's cache cannot be written.
    """
    from huggingface_hub import list_repo_files, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )
    from huggingface_hub.utils import tqdm

    # The library's own switch, HF_HUB_DISABLE_PROGRESS_BARS, is for the whole process.
    bar: Any = tqdm

    class NoBar(bar):
        """Draws nothing: the Hub's progress bars would overwrite what the terminal shows."""

        def __init__(self, *values: Any, **settings: Any):
            super().__init__(*values, **{**settings, "disable": True})

    try:
        folder = Path(snapshot_download(name, allow_patterns=list(HUB_FILES), tqdm_class=NoBar))
        # Only now is it asked what other files there are: it takes another request.
        if not any((folder / file).exists() for file in (WEIGHTS, INDEX, ADAPTER_WEIGHTS)):
            names = list_repo_files(name)
            raise CheckpointError(why_no_weights(name, name, WEIGHTS, names), setting="model")
        return folder
    except GatedRepoError as error:
        raise NetworkError(
            f"{name} is gated on the Hugging Face Hub. Ask for access on its page, then log in "
            "with `hf auth login`.",
            setting="model",
        ) from error
    except RepositoryNotFoundError as error:
        raise NetworkError(
            f"There is neither a folder {name} nor a model of this name on the Hugging Face Hub. "
            f"{_suggestion(name)}",
            setting="model",
        ) from error
    except HFValidationError as error:
        raise CheckpointError(f"There is no folder {name}. {_suggestion(name)}",
                              setting="model") from error  # fmt: skip
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        full = (errno.ENOSPC, errno.EDQUOT)
        if error.errno in (*full, errno.EACCES, errno.EROFS):
            raise StorageError(
                f"Cannot write the Hugging Face Hub's cache for {name}: {error.strerror}. Point "
                "HF_HOME to another folder.",
                setting="model",
            ) from error
        raise NetworkError(
            f"Cannot reach the Hugging Face Hub for {name}. Check the network, or use "
            f'`model="starter"` or a folder. {_suggestion(name)}',
            setting="model",
        ) from error

"""Define the errors that a user can act on, and the exit code of each.

    Gpt2ChatError
    ├── ConfigError         2  a setting is missing, unknown or out of range
    ├── DataError           3  a file, record, shard or manifest is not what it claims to be
    ├── CheckpointError     4  a model directory cannot be read or written
    ├── HardwareError       5  the device is absent, or its memory too small
    ├── StorageError        6  a folder cannot be written, or the disk is full
    ├── NetworkError        7  a name on the Hugging Face Hub cannot be loaded
    ├── WorkerError         8  another process of the same run ended
    ├── ReplyError          9  a model gives no reply, or none that means anything
    ├── ExportError        10  an export would not talk like its original, so none was written
    └── Interrupted       130  Ctrl-C; what was done so far is saved

RowError does not end the program: it says why `prepare` drops one record. Any other exception is
a bug, and keeps its traceback.

Messages speak Python, between backticks: a setting is `lr` or `precision="fp32"`, the next step is
`prepare(sample=True)`. The command line turns these into flags and commands, so the core knows
neither.
"""

import json


class Gpt2ChatError(Exception):
    """An error whose text is shown to the user.

    Args:
        text: What is wrong, with the value, then what to do, in the form described above.
        setting: Name of the setting that caused it, if one did, such as "model".
    """

    exit_code = 1

    def __init__(self, text: str, *, setting: str | None = None):
        super().__init__(text)
        self.setting = setting


class ConfigError(Gpt2ChatError):
    """A setting is missing, unknown or out of range."""

    exit_code = 2


class DataError(Gpt2ChatError):
    """A file, record, shard or manifest is not what it claims to be."""

    exit_code = 3


class CheckpointError(Gpt2ChatError):
    """A model directory cannot be read or written."""

    exit_code = 4


class HardwareError(Gpt2ChatError):
    """The device is absent, or its memory too small."""

    exit_code = 5


class StorageError(Gpt2ChatError):
    """A folder cannot be written, or the disk is full."""

    exit_code = 6


class NetworkError(Gpt2ChatError):
    """A name on the Hugging Face Hub cannot be loaded."""

    exit_code = 7


class WorkerError(Gpt2ChatError):
    """Another process of the same run ended, and this one cannot continue alone."""

    exit_code = 8


class ReplyError(Gpt2ChatError):
    """A model gives no reply, or none that means anything."""

    exit_code = 9


class ExportError(Gpt2ChatError):
    """An export would not talk like its original, so none was written."""

    exit_code = 10


class Interrupted(Gpt2ChatError):
    """Ctrl-C; the text says what was saved and how to continue."""

    exit_code = 130


def call(function: str, **settings: object) -> str:
    """Return a call of the public API for a message, in backticks: `sft(out="runs/a")`."""
    arguments: list[str] = []
    for name, value in settings.items():
        is_number = isinstance(value, bool | int | float)
        literal = str(value) if is_number else json.dumps(str(value), ensure_ascii=False)
        arguments.append(f"{name}={literal}")
    return f"`{function}({', '.join(arguments)})`"


class RowError(Exception):
    """One record cannot become a sample.

    `reason` is the short phrase under which `prepare` counts it, such as "empty reply".
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason

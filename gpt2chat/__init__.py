"""Turn GPT-2 into a chatbot, from raw public data to a conversation.

    import gpt2chat

    gpt2chat.prepare(sample=True)
    run = gpt2chat.sft(model="starter", epochs=1)
    chat = run.load().chat(system="Be brief.")
    print(chat.ask("What is a comet?"))

The names in `__all__` are the public API; docs/python.md explains them. Nothing heavy is imported
before the first use of a name that needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gpt2chat.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ExportError,
    Gpt2ChatError,
    HardwareError,
    Interrupted,
    NetworkError,
    ReplyError,
    StorageError,
    WorkerError,
)

if TYPE_CHECKING:
    from gpt2chat.api import TrainedModel, evaluate, export, orpo, prepare, sft
    from gpt2chat.core.chat.chat import Chat
    from gpt2chat.core.chat.model import ChatModel, load
    from gpt2chat.core.data.prepare import PrepareResult
    from gpt2chat.core.evaluation.results import Evaluation
    from gpt2chat.core.export.export import Export
    from gpt2chat.core.generation.reply import Reply
    from gpt2chat.core.runs import list_runs

__version__ = "0.1.0"

__all__ = [
    "Chat",
    "ChatModel",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Evaluation",
    "Export",
    "ExportError",
    "Gpt2ChatError",
    "HardwareError",
    "Interrupted",
    "NetworkError",
    "PrepareResult",
    "Reply",
    "ReplyError",
    "StorageError",
    "TrainedModel",
    "WorkerError",
    "__version__",
    "evaluate",
    "export",
    "list_runs",
    "load",
    "orpo",
    "prepare",
    "sft",
]

_MODULES = {
    **dict.fromkeys(
        ("TrainedModel", "evaluate", "export", "orpo", "prepare", "sft"), "gpt2chat.api"
    ),
    "Chat": "gpt2chat.core.chat.chat",
    "ChatModel": "gpt2chat.core.chat.model",
    "list_runs": "gpt2chat.core.runs",
    "load": "gpt2chat.core.chat.model",
    "Reply": "gpt2chat.core.generation.reply",
    "PrepareResult": "gpt2chat.core.data.prepare",
    "Evaluation": "gpt2chat.core.evaluation.results",
    "Export": "gpt2chat.core.export.export",
}
"""Where each name that is imported at its first use is defined."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Talk for 500 turns in a process of its own, and print what that took as a line of JSON.

    python -m tests.soak FOLDER

PyTorch keeps a kernel for each length of prompt. The command line bounds them by environment
variables that are read once in a process, so this cannot run inside pytest.
"""

import gc
import json
import os
import pickle
import sys
from pathlib import Path

import psutil

from gpt2chat.environment import prepare_for_chat

WARM, TURNS = 300, 500
"""Caches of texts and kernels fill in some 250 turns; then a turn takes 2 KiB, most of it text."""
MESSAGE = "What came of it, and who was there? " * 5


def resident() -> int:
    """Return how much memory the process takes, in bytes."""
    gc.collect()
    return psutil.Process().memory_info().rss


def main(folder: str) -> None:
    """Talk, and save the chat after each turn as the terminal does."""
    prepare_for_chat()  # before torch is imported
    import torch

    from gpt2chat.core.chat.chat import Chat
    from gpt2chat.core.chat.chats import Autosave, read_chat
    from gpt2chat.core.chat.model import ChatModel
    from gpt2chat.core.config.sampling import Sampling
    from gpt2chat.core.generation.generate import Generator
    from gpt2chat.dialogue.commands import take
    from gpt2chat.dialogue.dialogue import Dialogue
    from gpt2chat.dialogue.models import Models
    from tests.helpers import ignore, tiny_model

    # Neither wait for the disk, a thousand times, nor for a second thread on a busy machine.
    os.fsync = ignore
    torch.set_num_threads(1)
    model = ChatModel("tiny", Generator(tiny_model(positions=512), torch.device("cpu")))
    chat = Chat(None, sampling=Sampling(max_new_tokens=2, seed=0))
    models = Models(("tiny",), lambda _: model)
    dialogue = Dialogue(chat, models, autosave=Autosave(Path(folder)))
    warm, most_used = 0, 0
    for turn in range(TURNS):
        take(dialogue, f"{turn}: {MESSAGE}")
        most_used = max(most_used, chat.session.used)
        if turn == WARM:
            warm = resident()
    growth = resident() - warm
    (saved,) = Path(folder).iterdir()
    measured = {
        "growth": growth,
        "most_used": most_used,
        "window": chat.session.window,
        "turns": len(chat.session.turns),
        "text": sum(len(message.content.encode()) for message in chat.session.turns),
        "pickled": len(pickle.dumps(chat.session)),
        "saved": read_chat(saved).conversation.messages == chat.session.messages,
    }
    sys.stderr.write("\n" + json.dumps(measured) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])

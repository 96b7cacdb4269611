"""`gpt2chat chat`."""

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from gpt2chat.core.config.chat import ChatConfig
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.errors import DataError, ReplyError

if TYPE_CHECKING:
    from gpt2chat.core.chat.chats import KeptChat
    from gpt2chat.core.chat.session import Session
    from gpt2chat.core.generation.generate import Generator, ReplyStream
    from gpt2chat.dialogue import LoadedModel


def chat(settings: ChatConfig) -> None:
    """Talk with a model in the terminal.

    With -p or piped input, answer once and exit.
    """
    settings = replace(settings, model=tuple(dict.fromkeys(settings.model)))
    message = one_message(settings.prompt)

    from gpt2chat.dialogue.interrupts import ended_by_sigterm
    from gpt2chat.dialogue.start import begin, kept_chat

    with ended_by_sigterm():
        going_on = kept_chat(settings)
        session, names = begin(settings, going_on)
        if message is None:
            talk(session, names, settings, going_on)
        else:
            answer_once(session, names, message, settings, going_on)


def talk(
    session: "Session",
    names: list[str],
    settings: ChatConfig,
    going_on: "KeptChat | None",
) -> None:
    """Talk until the user leaves."""
    from gpt2chat.core.chat.chats import Autosave, chats_folder, history_file
    from gpt2chat.core.chat.feedback import Feedback
    from gpt2chat.dialogue import Dialogue, Models
    from gpt2chat.repl import run

    folder = chats_folder() if settings.history else None
    dialogue = Dialogue(
        session,
        settings.sampling,
        Models(names, lambda name: load(name, settings)),
        Feedback(settings.feedback),
        autosave=Autosave(folder, going_on) if folder else None,
        history=history_file() if settings.history else None,
        markdown=settings.markdown,
    )
    run(dialogue)


def one_message(prompt: str | None) -> str | None:
    """Return what to answer once: `--prompt`, piped text, or both; None for a chat.

    Raises:
        DataError: The message is empty, or the piped text is not UTF-8.
    """
    parts = [] if prompt is None else [prompt]
    if not sys.stdin.isatty():
        try:
            parts.append(sys.stdin.buffer.read().decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise DataError(f"Standard input is not UTF-8 text: {error}.") from error
    if not parts:
        return None
    message = "\n\n".join(part.strip() for part in parts if part.strip())
    if not message:
        raise DataError("The message is empty. Give -p some text, or pipe some in.")
    return message


def wait_briefly() -> None:
    """Let OpenMP's threads sleep soon where they wait for each other, unless the user decides it.

    They spin for a thousand rounds and no longer: as fast on a quiet machine, and half as fast
    again where other programs share the cores (docs/log.md). OpenMP reads it as torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def load(name: str, settings: ChatConfig) -> "LoadedModel":
    """Return a model ready to generate; the second that it takes is torch's import mostly."""
    wait_briefly()
    from gpt2chat.core.generation.loading import load_generator
    from gpt2chat.dialogue import LoadedModel

    generator = load_generator(name, settings.device, settings.precision, settings.compile)
    return LoadedModel(
        generator, generator.parameters, f"{generator.device}, {generator.precision}"
    )


def answer_once(
    session: "Session",
    names: list[str],
    text: str,
    settings: ChatConfig,
    going_on: "KeptChat | None",
) -> None:
    """Write the first model's answer to stdout, and how it came about to stderr. No chat is kept
    of it, unless it is one that goes on.

    Raises:
        ReplyError: The answer is empty.
    """
    from gpt2chat.core.chat.chats import Autosave
    from gpt2chat.report import quiet_keys, show_reply, show_speed

    generator = load(names[0], settings).generator
    session.window = generator.window
    ids = session.ask(text, settings.sampling.max_new_tokens).ids
    with quiet_keys():
        stream, pieces = begun_reply(generator, ids, settings.sampling)
        show_reply(pieces, markdown=settings.markdown)
    session.answer(stream.reply.text)
    show_speed(stream.reply)
    if going_on and settings.history:
        Autosave(going_on.path.parent, going_on).write(session.messages, names)


def begun_reply(
    generator: "Generator", ids: list[int], sampling: Sampling
) -> tuple["ReplyStream", Iterable[str]]:
    """Return a reply that has a word, and all its pieces. An empty one is asked for once more.

    Raises:
        ReplyError: It is empty again.
    """
    from gpt2chat.dialogue.dialogue import AGAIN

    for tried in (sampling, sampling.seeded(AGAIN)):
        stream = generator.stream(ids, tried, stop_loops=True)
        begin: list[str] = []
        for piece in stream:
            begin.append(piece)
            if piece.strip():
                return stream, chain(begin, stream)
    raise ReplyError(
        "The model ended its reply before the first word, twice. Ask in other words, or with "
        "another --seed."
    )

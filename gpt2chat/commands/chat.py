"""`gpt2chat chat`."""

import os
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpt2chat.core.config.chat import ChatConfig, ChatPrecision
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.config.settings import Compile
from gpt2chat.core.errors import DataError, ReplyError
from gpt2chat.options import ConfigFile, DeviceName

if TYPE_CHECKING:
    from gpt2chat.core.chat.chats import KeptChat
    from gpt2chat.core.chat.session import Session
    from gpt2chat.core.generation.generate import Generator, ReplyStream
    from gpt2chat.dialogue import LoadedModel


def chat(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="A run, a folder, a Hub name or starter; the newest finished run if not given. "
            "Given again: another model to /compare.",
            show_default=False,
        ),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(help="System prompt; the template's own if not given.", show_default=False),
    ] = ChatConfig.system,
    prompt: Annotated[
        str | None,
        typer.Option("-p", "--prompt", help="Answer this once and leave.", show_default=False),
    ] = ChatConfig.prompt,
    temperature: Annotated[
        float, typer.Option(help="Higher is more varied; 0 takes the likeliest token.")
    ] = Sampling.temperature,
    top_k: Annotated[
        int, typer.Option(help="Only so many of the likeliest tokens; 0 for no limit.")
    ] = Sampling.top_k,
    top_p: Annotated[
        float, typer.Option(help="Only the likeliest tokens that together reach this probability.")
    ] = Sampling.top_p,
    min_p: Annotated[
        float, typer.Option(help="Only tokens so likely, as a share of the likeliest; 0 for all.")
    ] = Sampling.min_p,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1, words of the reply come back less often; 1 for none.")
    ] = Sampling.repetition_penalty,
    no_repeat_ngram: Annotated[
        int, typer.Option(help="No so many tokens stand twice in a reply; 0 for no limit.")
    ] = Sampling.no_repeat_ngram,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="A text that ends a reply; may be repeated.", show_default=False),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(help="Longest reply, in tokens.")
    ] = Sampling.max_new_tokens,
    seed: Annotated[
        int | None,
        typer.Option(help="Same seed, same reply; drawn if not given.", show_default=False),
    ] = Sampling.seed,
    feedback: Annotated[
        Path, typer.Option(help="File that /good, /bad and /edit write to, for prepare --feedback.")
    ] = ChatConfig.feedback,
    resume_last: Annotated[
        bool, typer.Option("--resume-last", help="Go on with the latest chat, and its model.")
    ] = ChatConfig.resume_last,
    history: Annotated[
        bool, typer.Option("--history/--no-history", help="Keep typed lines and chats, or nothing.")
    ] = ChatConfig.history,
    markdown: Annotated[
        bool,
        typer.Option(
            "--markdown/--no-markdown",
            help="On a terminal, show a reply that holds Markdown in its looks.",
        ),
    ] = ChatConfig.markdown,
    device: DeviceName = ChatConfig.device,
    precision: Annotated[
        ChatPrecision,
        typer.Option(help="Of the weights: int8 on a CPU and bf16 on a GPU if not given."),
    ] = ChatConfig.precision,
    compile: Annotated[
        Compile,
        typer.Option(help="Compile a step, on a GPU: faster, but the first reply waits for it."),
    ] = ChatConfig.compile,
    config: ConfigFile = None,
) -> None:
    """Talk with a model in the terminal, or answer once with -p or piped input."""
    settings = ChatConfig(
        model=tuple(dict.fromkeys(model or ())),
        system=system,
        prompt=prompt,
        sampling=Sampling(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            no_repeat_ngram=no_repeat_ngram,
            stop=tuple(stop or ()),
            max_new_tokens=max_new_tokens,
            seed=seed,
        ),
        feedback=feedback,
        resume_last=resume_last,
        history=history,
        markdown=markdown,
        device=device,
        precision=precision,
        compile=compile,
    )
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

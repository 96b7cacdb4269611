"""`gpt2chat chat`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpt2chat.core.config import ChatConfig, ChatPrecision, Sampling
from gpt2chat.core.errors import DataError
from gpt2chat.options import ConfigFile, DeviceName

if TYPE_CHECKING:
    from gpt2chat.core.generate import Generator
    from gpt2chat.core.session import Session

BASE_MODELS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")


def chat(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="A run, a folder, a Hub name or starter; the newest finished run if not given.",
            show_default=False,
        ),
    ] = ChatConfig.model,
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
    device: DeviceName = ChatConfig.device,
    precision: Annotated[
        ChatPrecision,
        typer.Option(help="Of the weights: int8 on a CPU and bf16 on a GPU if not given."),
    ] = ChatConfig.precision,
    config: ConfigFile = None,
) -> None:
    """Talk with a model in the terminal, or answer once with -p or piped input."""
    settings = ChatConfig(
        model=model,
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
        device=device,
        precision=precision,
    )
    message = one_message(settings.prompt)

    from gpt2chat.core.runs import pick_model
    from gpt2chat.core.session import Session
    from gpt2chat.report import note

    name, why = pick_model(settings.model, ("sft", "orpo"), "gpt2chat sft")
    session = Session(settings.system)
    note(why)
    if is_base(name):
        note(f"{name} is a base model that has never seen the chat template: it rambles.")
    if message is not None:
        answer_once(session, load(name, settings), message, settings.sampling)
        return

    from gpt2chat.core.feedback import Feedback
    from gpt2chat.dialogue import Dialogue
    from gpt2chat.repl import run

    opinions = Feedback(settings.feedback)
    run(Dialogue(session, settings.sampling, name, lambda: load(name, settings), opinions))


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


def is_base(name: str) -> bool:
    """Return whether a model has no tokens of the chat template, so was never trained on it.

    Raises:
        CheckpointError: It looks like a folder, and there is none.
    """
    from gpt2chat.core.runs import local_folder
    from gpt2chat.core.tokens import GPT2_VOCAB

    folder = local_folder(name)
    if folder is None:
        return name.rpartition("/")[2] in BASE_MODELS
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config["vocab_size"] == GPT2_VOCAB
    except (OSError, ValueError, KeyError, TypeError):
        return False  # loading says what is wrong


def load(name: str, settings: ChatConfig) -> "Generator":
    """Return the model ready to generate; the seconds that it takes are torch's import mostly."""
    from gpt2chat.core.generate import Generator
    from gpt2chat.core.model import load_model, pick_device

    device = pick_device(settings.device)
    return Generator(load_model(name), device, settings.precision)


def answer_once(session: "Session", generator: "Generator", text: str, sampling: Sampling) -> None:
    """Write the answer to stdout, and how it came about to stderr."""
    from gpt2chat.report import note, show_reply, show_speed

    session.window = generator.window
    ids = session.ask(text, sampling.max_new_tokens).ids
    stream = generator.stream(ids, sampling, stop_loops=True)
    show_reply(stream)
    if session.answer(stream.reply.text):
        show_speed(stream.reply)
    else:
        note("The model ended its reply before the first word. Ask again, or in other words.")

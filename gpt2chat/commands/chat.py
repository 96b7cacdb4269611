"""`gpt2chat chat`."""

import sys
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from gpt2chat import options
from gpt2chat.core.config.chat import ChatConfig
from gpt2chat.core.errors import ConfigError, DataError, ReplyError, RowError
from gpt2chat.environment import prepare_for_chat

if TYPE_CHECKING:
    from gpt2chat.core.chat.chat import Chat
    from gpt2chat.core.chat.model import ChatModel
    from gpt2chat.core.generation.reply import Reply
    from gpt2chat.core.text.conversations import Conversation


def chat(settings: ChatConfig, json: options.Json = False) -> None:
    """Talk with a model in the terminal.

    With -p, a file of prompts or piped input, answer and exit.
    """
    # A model that is named twice loads once.
    settings = replace(settings, model=tuple(dict.fromkeys(settings.model)))
    questions = questions_to_answer(settings)
    if json and questions is None:
        raise ConfigError("--json needs a `prompt`. Give one.")
    # The answers to a file of prompts are for other programs: always JSON Lines.
    json = json or settings.prompts is not None

    from gpt2chat.core.chat.chat import Chat
    from gpt2chat.core.chat.chats import Autosave, chats_folder, history_file, latest_chat
    from gpt2chat.dialogue.start import begin
    from gpt2chat.interrupts import ended_by_sigterm

    with ended_by_sigterm():
        resumed = latest_chat(chats_folder()) if settings.resume_last else None
        session, names = begin(settings, resumed)
        if questions is None:
            from gpt2chat.dialogue.dialogue import Dialogue
            from gpt2chat.dialogue.models import Models
            from gpt2chat.repl import run

            folder = chats_folder() if settings.history else None
            dialogue = Dialogue(
                Chat(None, session=session, sampling=settings.sampling, feedback=settings.feedback),
                Models(names, lambda name: load(name, settings)),
                autosave=Autosave(folder, resumed) if folder else None,
                history=history_file() if settings.history else None,
            )
            run(dialogue)
        elif resumed:  # the message is the next one of that chat
            generator = load(names[0], settings).generator
            next_turn = Chat(generator, session=session, sampling=settings.sampling)
            question = questions[0]
            show_answer(next_turn, names[0], question.user.content, question if json else None)
            if settings.history:
                autosave = Autosave(resumed.path.parent, resumed)
                autosave.write(session.messages, names, session.cut_messages)
        else:
            answer_each(names, questions, settings, json=json)


def questions_to_answer(settings: ChatConfig) -> "list[Conversation] | None":
    """Return the messages to answer once each; None for a conversation at the prompt.

    Piped text is a message, or the end of each message of `--prompt`.

    Raises:
        DataError: A message is empty, the piped text is not UTF-8, or the file of prompts cannot be
            used.
    """
    if settings.prompts is None and not settings.prompt and sys.stdin.isatty():
        return None

    from gpt2chat.core.chat.prompts import read_prompts
    from gpt2chat.core.text.conversations import Conversation, Message

    # A file of prompts leaves standard input alone: a script may have it open for another purpose.
    if settings.prompts:
        return read_prompts(settings.prompts)
    piped = ""
    if not sys.stdin.isatty():
        try:
            piped = sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"Standard input is not UTF-8 text: {error}.") from error
    questions: list[Conversation] = []
    for prompt in settings.prompt or ("",):
        text = "\n\n".join(part.strip() for part in (prompt, piped) if part.strip())
        if not text:
            raise DataError("The message is empty. Write it after -p, or pipe it in.")
        try:
            questions.append(Conversation((Message("user", text),)))
        except RowError as error:  # the bytes of half a character
            raise DataError(f"The message is not valid UTF-8: {error.reason}.") from error
    return questions


def load(name: str, settings: ChatConfig) -> "ChatModel":
    """Return a model, ready to talk. Most of the second that this takes is the import of torch."""
    prepare_for_chat()
    from gpt2chat.core.chat.model import load as load_model

    return load_model(name, settings.device, settings.precision, settings.compile)


def answer_each(
    names: list[str], questions: "list[Conversation]", settings: ChatConfig, *, json: bool
) -> None:
    """Answer each message on its own, with each model, and save nothing.

    A message of a `--prompts` file that cannot be answered does not stop the others.

    Raises:
        DataError: The message is too long for the window.
        ReplyError: The model gave no reply, or some messages of a file could not be answered.
    """
    from gpt2chat.core.chat.chat import Chat
    from gpt2chat.core.chat.session import Session
    from gpt2chat.report import note, say, show_json_line

    failures, first = 0, True
    for name in names:
        if len(names) > 1:
            note(f"{name}:")
        model = load(name, settings)
        for question in questions:
            if not (first or json):
                say("")  # an empty line between two answers
            first = False
            try:
                # A session of its own for each, so that no answer depends on the order.
                session = Session(window=model.window)
                session.replace(question, "the prompt")
                if settings.system is not None and question.messages[0].role != "system":
                    session.set_system(settings.system)
                text = session.undo()
                chat = Chat(model.generator, session=session, sampling=settings.sampling)
                show_answer(chat, name, text, question if json else None)
            except (DataError, ReplyError) as error:
                if not settings.prompts:
                    raise
                failures += 1
                show_json_line({"model": name, **as_record(question), "error": str(error)})
    if failures:
        what = f"{failures} of {len(names) * len(questions)} replies"
        raise ReplyError(f"{what} failed. Their lines have an `error` in place of a reply.")


def show_answer(chat: "Chat", name: str, text: str, record: "Conversation | None") -> None:
    """Write the reply to a message to stdout, and its figures to stderr.

    Args:
        name: The model's name.
        record: The prompt to repeat in a line of JSON, which has the reply and its figures; None
            for plain text.

    Raises:
        DataError: The message is too long for the window.
        ReplyError: The model gave no reply.
    """
    from gpt2chat.report import quiet_keys, show_json_line, show_reply, show_speed

    with quiet_keys(), chat.stream(text) as stream:
        if record:
            show_json_line({"model": name, **as_record(record), **figures(stream.read())})
            return
        # Wait for the first word: an empty reply leaves stdout empty.
        first = next(stream)
        show_reply(chain([first], stream))
    show_speed(stream.reply)


def as_record(question: "Conversation") -> dict[str, Any]:
    """Return a prompt as a line of a `--prompts` file has it."""
    if len(question.messages) == 1:
        return {"prompt": question.user.content}
    return {"messages": question.as_dicts()}


def figures(reply: "Reply") -> dict[str, Any]:
    """Return the fields of a reply in a line of JSON."""
    return {
        "reply": reply.text,
        "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.prompt_tokens,
        "tokens": reply.tokens,
        "seconds": round(reply.seconds, 3),
        "tokens_per_second": round(reply.tokens_per_second, 1),
        "left_window": reply.left_window,
    }

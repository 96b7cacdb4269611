"""Begin a chat: choose its models, and resume the latest one if that is wanted."""

from gpt2chat.core.chat.chats import KeptChat, chats_folder, latest_chat
from gpt2chat.core.chat.session import Session
from gpt2chat.core.config.chat import ChatConfig
from gpt2chat.core.errors import CheckpointError
from gpt2chat.core.model.names import is_base_model, local_folder, pick_model
from gpt2chat.core.text.wording import plural
from gpt2chat.dialogue.text import shortened
from gpt2chat.report import note


def kept_chat(settings: ChatConfig) -> KeptChat | None:
    """Return the chat to resume, if the user wants that.

    Raises:
        DataError: No chat is kept, or none can be read.
    """
    return latest_chat(chats_folder()) if settings.resume_last else None


def begin(settings: ChatConfig, resumed: KeptChat | None) -> tuple[Session, list[str]]:
    """Return the chat as it begins and the names of its models, and say which were picked.

    Raises:
        DataError: The system prompt or the resumed chat cannot be used.
        CheckpointError: There is no such model.
    """
    session = Session()
    if resumed:
        for why in resumed.unread:
            note(why)
        session.replace(resumed.conversation, str(resumed.path), resumed.cut)
    if settings.system is not None:
        session.set_system(settings.system)
    wanted = settings.model or (still_there(resumed) if resumed else ()) or ("",)
    names: list[str] = []
    for wish in wanted:
        name, why = pick_model(wish, ("sft", "orpo"))
        names.append(name)
        if not resumed:
            note(why)
        if is_base_model(name):
            note(f"{name} is a base model that has never seen the chat template: it rambles.")
    if resumed:
        note(f"{resumption(resumed)}, with {', '.join(names)}.")
    return session, names


def still_there(kept: KeptChat) -> tuple[str, ...]:
    """Return the models of a kept chat.

    Raises:
        CheckpointError: The folder of one is gone.
    """
    for name in kept.models:
        try:
            local_folder(name)
        except CheckpointError:
            raise CheckpointError(
                f"The latest chat was with {name}, which is gone. Name another with --model."
            ) from None
    return kept.models


def resumption(kept: KeptChat) -> str:
    """Return one line about the chat that is resumed."""
    turns = kept.conversation.turns
    return (
        f"Resumed the chat of {kept.when:%Y-%m-%d %H:%M}: {plural(len(turns), 'message')}, "
        f"the latest “{shortened(turns[-1].content, 40)}”"
    )

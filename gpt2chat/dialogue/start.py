"""Begin a chat, or resume one, and report which models answer."""

from gpt2chat.core.chat.chats import KeptChat
from gpt2chat.core.chat.session import Session
from gpt2chat.core.config.chat import ChatConfig
from gpt2chat.core.errors import CheckpointError
from gpt2chat.core.model.names import is_base_model, local_folder, pick_model
from gpt2chat.core.text.wording import plural
from gpt2chat.dialogue.text import shortened
from gpt2chat.report import note


def begin(settings: ChatConfig, resumed: KeptChat | None) -> tuple[Session, list[str]]:
    """Return the messages that the chat begins with and the names of its models.

    Notes say which models were picked, and which chat is resumed.

    Raises:
        DataError: The system prompt or the resumed chat cannot be used.
        CheckpointError: A model does not exist.
    """
    session = Session()
    models = settings.model
    if resumed:
        for problem in resumed.unread:
            note(problem)
        session.replace(resumed.conversation, str(resumed.path), resumed.cut)
        if not models:
            models = resumed.models
            for name in models:
                try:
                    local_folder(name)
                except CheckpointError:
                    raise CheckpointError(
                        f"The latest chat was with {name}, which no longer exists. Name another "
                        "`model`."
                    ) from None
    if settings.system is not None:
        session.set_system(settings.system)
    names: list[str] = []
    for model in models or ("",):  # the newest finished run, if none is named
        name, why = pick_model(model, ("sft", "orpo"))
        names.append(name)
        if not resumed:
            note(why)
        # It is not refused: talking to the base shows what fine-tuning changes.
        if is_base_model(name):
            note(f"{name} is a base model that has never seen the chat template: it rambles.")
    if resumed:
        turns = resumed.conversation.turns
        note(
            f"Resumed the chat of {resumed.when:%Y-%m-%d %H:%M}: {plural(len(turns), 'message')}, "
            f"the latest “{shortened(turns[-1].content, 40)}”, with {', '.join(names)}."
        )
    return session, names

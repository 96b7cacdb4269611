"""Read what concerns the bot out of an update; nothing else of it is stored."""

import re
from dataclasses import dataclass

from aiogram.types import Message, Update, User

COMMAND = re.compile(r"/([a-z]\w*)(?:@(\w+))?(?:\s+|$)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """A message to the bot, or a button that was pressed."""

    update: int
    """Telegram's number of the update."""
    chat: int
    thread: int = 0
    """Topic of a group with topics; 0 elsewhere."""
    user: int
    date: int
    """Time of the message, in seconds since 1970; 0 for a button, which no limit counts."""
    message: int
    """Number of the message in the chat."""
    private: bool = True
    text: str | None = None
    """None for a photo, a sticker and the like."""
    query: str = ""
    """Number of the button press, for the answer to it; empty for a message."""
    data: str = ""
    """What the button stands for."""

    def command(self) -> tuple[str, str]:
        """Return the command and the text after it; without a command, "" and the whole text."""
        text = self.text or ""
        match = COMMAND.match(text)
        return (match[1].lower(), text[match.end() :].strip()) if match else ("", text.strip())


def read_update(update: Update, me: User) -> Incoming | None:
    """Return what an update says to the bot; None if it does not concern it.

    In groups, only a mention of the bot and a reply to one of its messages do.
    """
    query = update.callback_query
    if query is not None:
        message = query.message
        if message is None or not query.data:
            return None
        return Incoming(
            update=update.update_id,
            chat=message.chat.id,
            # Of a message that is too old, Telegram sends no more than its chat and number.
            thread=_topic(message) if isinstance(message, Message) else 0,
            user=query.from_user.id,
            date=0,
            message=message.message_id,
            private=message.chat.type == "private",
            query=query.id,
            data=query.data,
        )
    message = update.message
    # An edited message is not answered again, and a channel has nobody to talk to.
    if message is None or message.chat.type == "channel" or message.from_user is None:
        return None
    # Another bot could talk with this one forever. An administrator who writes in the group's name
    # appears as a bot, too.
    if message.from_user.is_bot and message.sender_chat is None:
        return None
    sender = message.sender_chat or message.from_user
    text = message.text
    private = message.chat.type == "private"
    if not private:
        if not _is_for(message, me):
            return None
        if text is not None and me.username:
            # A command keeps its name: /reset@the_bot.
            text = re.sub(rf"(?<![\w/])@{re.escape(me.username)}\b", "", text, flags=re.IGNORECASE)
    return Incoming(
        update=update.update_id,
        chat=message.chat.id,
        thread=_topic(message),
        user=sender.id,
        date=int(message.date.timestamp()),
        message=message.message_id,
        private=private,
        text=text,
    )


def _topic(message: Message) -> int:
    # In groups without topics, answers to a message have a thread number as well.
    return (message.message_thread_id or 0) if message.is_topic_message else 0


def _is_for(message: Message, me: User) -> bool:
    """Return whether a message in a group mentions the bot, or replies to it."""
    answered = message.reply_to_message
    if answered is not None and answered.from_user is not None and answered.from_user.id == me.id:
        return True
    name = f"@{me.username}".lower()
    for entity in (message.entities or []) + (message.caption_entities or []):
        # Telegram counts the offsets in UTF-16 code units, and `extract_from` converts them.
        said = entity.extract_from(message.text or message.caption or "").lower()
        if entity.type == "mention" and said == name:
            return True
        if entity.type == "bot_command" and said.endswith(name):
            return True
        if entity.type == "text_mention" and entity.user is not None and entity.user.id == me.id:
            return True
    return False

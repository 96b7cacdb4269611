"""`gpt2chat telegram`."""

import os
import secrets
from pathlib import Path

from gpt2chat.core.config.telegram import TelegramConfig
from gpt2chat.core.errors import ConfigError
from gpt2chat.core.model.names import pick_model
from gpt2chat.environment import prepare_for_chat

TOKEN = "TELEGRAM_BOT_TOKEN"


def telegram(settings: TelegramConfig) -> None:
    """Answer messages on Telegram.

    The bot is closed: it talks to those whom --allow names, and to those who send /start with the
    code. Chats and unanswered messages survive a restart.
    """
    token = read_secret(settings.token_file, "token_file") or os.environ.get(TOKEN, "").strip()
    if not token:
        text = f"There is no token. Set {TOKEN} to the one that @BotFather gave you, or give a file"
        raise ConfigError(f"{text} with `token_file`.", setting="token_file")
    try:
        from aiogram.utils.token import TokenValidationError, validate_token
    except ImportError as error:
        raise ConfigError("The bot needs aiogram. Run pip install 'gpt2chat[telegram]'.") from error
    try:
        validate_token(token)
    except TokenValidationError:
        text = "That is not a token of a bot. Copy it again from @BotFather."
        raise ConfigError(text, setting="token_file") from None
    code = read_secret(settings.code_file, "code_file")
    names = dict.fromkeys(pick_model(name, ("sft", "orpo"))[0] for name in settings.model or ("",))

    prepare_for_chat()
    from gpt2chat.core.chat.model import load
    from gpt2chat.report import note
    from gpt2chat.telegram.run import run
    from gpt2chat.telegram.store import Store

    # Before the models load: a file that another bot uses is reported at once.
    store = Store(settings.state)
    if not code and not settings.allow:
        # 12 characters of the alphabet that Telegram allows in a link with ?start=.
        code = store.code(secrets.token_urlsafe(9))
    models = {}
    for name in names:
        note(f"Loading {name}.")
        models[name] = load(name, settings.device, settings.precision)
    run(token, models, store, settings, code=code, note=note)


def read_secret(path: Path | None, setting: str) -> str:
    """Return the text of a file without white space around it; empty without a file.

    Raises:
        ConfigError: The file cannot be read, or is empty.
    """
    if path is None:
        return ""
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"Cannot read {path}: {reason}.", setting=setting) from error
    if not secret:
        raise ConfigError(f"{path} is empty.", setting=setting)
    return secret

"""Define the settings of the Telegram bot."""

from dataclasses import dataclass, field
from pathlib import Path

from gpt2chat.core.config.chat import ChatPrecision
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.config.settings import Device, Settings, setting


@dataclass(frozen=True, kw_only=True)
class TelegramConfig(Settings):
    """Settings of the Telegram bot."""

    model: tuple[str, ...] = setting(
        (),
        help="Model that answers: a run, a model folder, a name on the Hugging Face Hub, or "
        "starter. Defaults to the newest finished run. Further models are for /model and /two.",
        section="Model",
        metavar="MODEL",
    )
    system: str | None = setting(
        None, help="System prompt. Defaults to the chat template's own.", section="Prompt"
    )
    token_file: Path | None = setting(
        None,
        help="File with the bot's token. Without it, the environment variable TELEGRAM_BOT_TOKEN "
        "has the token.",
        section="Telegram",
        metavar="FILE",
    )
    api_base: str = setting(
        "https://api.telegram.org",
        help="Address of the Bot API server.",
        section="Telegram",
        metavar="URL",
    )
    allow: tuple[str, ...] = setting(
        (),
        help="User or group that may talk to the bot, by its number. Everyone else has to send "
        "/start with the code.",
        section="Access",
        metavar="ID",
    )
    code_file: Path | None = setting(
        None,
        help="File with the code that lets a user or a group join by /start CODE. Without it and "
        "without `allow`, a code is drawn and printed.",
        section="Access",
        metavar="FILE",
    )
    rate: int = setting(
        20, help="Most messages of one user in a minute. 0 disables the limit.", section="Access",
        ge=0,
    )  # fmt: skip
    sampling: Sampling = field(default_factory=Sampling)
    at_once: int = setting(
        8,
        help="Most replies that are generated at the same time. They share the model's passes.",
        section="Hardware",
        ge=1,
        le=64,
    )
    state: Path = setting(
        Path("telegram.db"),
        help="SQLite file with the chats and everything that is not answered yet.",
        section="Files",
        metavar="FILE",
    )
    feedback: Path = setting(
        Path("feedback.jsonl"),
        help="File that ratings and votes are appended to, for `prepare(feedback=FILE)`.",
        section="Files",
        metavar="FILE",
    )
    device: Device = setting(
        "auto", help="Where to run. auto uses a GPU if there is one.", section="Hardware"
    )
    precision: ChatPrecision = setting(
        "auto",
        help="Precision of the weights. auto uses int8 on a CPU and bf16 on a GPU.",
        section="Hardware",
    )

    def check_together(self) -> None:
        for entry in self.allow:
            is_number = entry.removeprefix("-").isdecimal()
            self.require("allow", is_number, "the number of a user or a group")
        is_address = self.api_base.startswith(("http://", "https://"))
        self.require("api_base", is_address, "an address with http:// or https://")

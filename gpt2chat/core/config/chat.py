"""Define the settings of a chat."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.config.settings import Compile, Device, Settings, setting
from gpt2chat.core.errors import ConfigError

ChatPrecision = Literal["auto", "int8", "bf16", "fp32"]


@dataclass(frozen=True, kw_only=True)
class ChatConfig(Settings):
    """Settings of a chat. Those of its sampling can be given as if they were its own."""

    model: tuple[str, ...] = setting(
        (),
        help="Model to talk to: a run, a model folder, a name on the Hugging Face Hub, or "
        "starter. Defaults to the newest finished run. Further models are for /compare.",
        section="Model",
        metavar="MODEL",
    )
    system: str | None = setting(
        None, help="System prompt. Defaults to the chat template's own.", section="Prompt"
    )
    prompt: tuple[str, ...] = setting(
        (), help="Answer this message on its own, and exit.", section="Prompt", aliases=("p",)
    )
    prompts: Path | None = setting(
        None,
        help="Answer each message of a file as JSON Lines, and exit. The file has one message per "
        "line, or JSON Lines with prompt or messages.",
        section="Prompt",
        metavar="FILE",
    )
    sampling: Sampling = field(default_factory=Sampling)
    resume_last: bool = setting(
        False, help="Continue the latest chat, with its model.", section="Session"
    )
    # A chat is saved after each turn, since a terminal may be closed at any moment.
    history: bool = setting(
        True, help="Save chats and typed lines for the next session.", section="Session"
    )
    # In the working directory, next to the data and the runs that it will be trained into.
    feedback: Path = setting(
        Path("feedback.jsonl"),
        help="File that /good, /bad and /edit append to, for `prepare(feedback=FILE)`.",
        section="Session",
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
    # auto does not compile: the user would wait for it at the first message.
    compile: Compile = setting(
        "auto",
        help="Compile the decoding step on a GPU. Replies are faster, but the first one waits.",
        section="Hardware",
    )

    def check_together(self) -> None:
        if self.prompt and self.prompts:
            raise ConfigError("Give either `prompt` or `prompts`, not both.", setting="prompts")
        if self.resume_last and (self.prompts or len(self.prompt) > 1):
            text = "`resume_last` continues one chat with one message. Give `prompt` once."
            raise ConfigError(text, setting="resume_last")

"""Settings of `gpt2chat chat`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.config.settings import Compile, Device

ChatPrecision = Literal["auto", "int8", "bf16", "fp32"]


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """Settings of `gpt2chat chat`."""

    model: tuple[str, ...] = ()
    """The first answers, the others are there to compare. None: the newest finished run."""
    system: str | None = None
    """System prompt; the template's own where it is not given."""
    prompt: str | None = None
    """Answer this once and leave."""
    sampling: Sampling = field(default_factory=Sampling)
    feedback: Path = Path("feedback.jsonl")
    """File that opinions on replies are written to."""
    resume_last: bool = False
    """Go on with the latest chat that was kept."""
    history: bool = True
    """Keep typed lines and chats."""
    markdown: bool = True
    """Show a reply that holds Markdown in its looks, on a terminal."""
    device: Device = "auto"
    """Where to run."""
    precision: ChatPrecision = "auto"
    """Weights as the model reads them: int8 on a CPU and bf16 on a GPU where it is `auto`."""
    compile: Compile = "auto"
    """Let PyTorch compile a step, on a GPU; `auto` does not, since who chats would wait for it."""

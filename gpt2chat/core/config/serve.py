"""Define the settings of the server."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gpt2chat.core.config.chat import ChatPrecision
from gpt2chat.core.config.sampling import Sampling
from gpt2chat.core.config.settings import Compile, Device, Settings, setting

Truncation = Literal["auto", "disabled"]


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Settings):
    """Settings of the server. Those of its sampling are the defaults of a request."""

    model: tuple[str, ...] = setting(
        (),
        help="Model to serve: a run, a model folder, a name on the Hugging Face Hub, or starter. "
        "Defaults to the newest finished run. Each is loaded at its first request.",
        section="Model",
        metavar="MODEL",
    )
    host: str = setting(
        "127.0.0.1",
        help="Address to listen on. Any but a loopback address requires an API key.",
        section="Network",
    )
    port: int = setting(
        8000, help="Port to listen on; 0 picks a free one.", section="Network", ge=0, le=65535
    )
    api_key_file: Path | None = setting(
        None,
        help="File with the key that requests must carry. Defaults to the environment variable "
        "GPT2CHAT_API_KEY.",
        section="Network",
        metavar="FILE",
    )
    allow_host: tuple[str, ...] = setting(
        (),
        help="Host name under which requests may come, such as the one of a reverse proxy.",
        section="Network",
        metavar="NAME",
    )
    cors_origin: tuple[str, ...] = setting(
        (),
        help="Origin of other web pages that may send requests, such as https://example.org.",
        section="Network",
        metavar="ORIGIN",
    )
    truncation: Truncation = setting(
        "auto",
        help="When a conversation is too long for the window: auto drops its oldest turns, "
        "disabled refuses the request.",
        section="Requests",
    )
    queue: int = setting(
        512,
        help="Requests that may wait. Further ones are refused with status 429.",
        section="Requests",
        ge=0,
    )
    slots: int = setting(
        64,
        help="Most replies that are computed together. Each takes memory for one window.",
        section="Requests",
        ge=1,
        le=256,
    )
    grace: float = setting(
        30.0,
        help="Seconds that running replies have to finish after SIGTERM or Ctrl-C.",
        section="Requests",
        ge=0,
        le=3600,
    )
    access_log: bool = setting(
        False, help="Log address, path and status of each request.", section="Requests"
    )
    feedback: Path = setting(
        Path("feedback.jsonl"),
        help="File that votes of the page are appended to, for `prepare(feedback=FILE)`.",
        section="Requests",
        metavar="FILE",
    )
    sampling: Sampling = field(default_factory=Sampling)
    device: Device = setting(
        "auto", help="Where to run. auto uses a GPU if there is one.", section="Hardware"
    )
    precision: ChatPrecision = setting(
        "auto",
        help="Precision of the weights. auto uses int8 on a CPU and bf16 on a GPU.",
        section="Hardware",
    )
    compile: Compile = setting(
        "auto",
        help="Compile the decoding step on a GPU. Replies are faster, but the first one waits.",
        section="Hardware",
    )

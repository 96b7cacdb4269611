"""Run the server until SIGTERM or Ctrl-C."""

import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from gpt2chat.core.config.serve import ServeConfig
from gpt2chat.core.errors import ConfigError
from gpt2chat.serve.app import create_app
from gpt2chat.serve.guard import KEY_VARIABLE, is_loopback, read_key
from gpt2chat.serve.models import Models


def run(settings: ServeConfig, names: list[str], on_start: Callable[[str], None]) -> None:
    """Serve models until the process is told to end.

    Args:
        names: Names of the models, the default one first.
        on_start: Called with the server's address once it accepts connections.

    Raises:
        ConfigError: The address cannot be used, or needs an API key.
        CheckpointError: A name is not that of a GPT-2 model.
    """
    key = read_key(settings.api_key_file)
    if key is None and not is_loopback(settings.host):
        raise ConfigError(
            f"Other machines can reach {settings.host}, so an API key is needed. Put one into "
            f"{KEY_VARIABLE} or into a file for `api_key_file`.",
            setting="host",
        )
    app = create_app(settings, Models(settings, names), key)
    config = uvicorn.Config(
        app,
        access_log=settings.access_log,
        log_level="info" if settings.access_log else "warning",
        timeout_graceful_shutdown=round(settings.grace),
        # Models load at their first request, so there is nothing to begin or to end.
        lifespan="off",
        ws="none",
        server_header=False,
    )
    server = Server(config, on_start)
    # uvicorn would log that a port is taken and exit; `bind` raises an error with the setting.
    server.run(sockets=[bind(settings.host, settings.port)])


class Server(uvicorn.Server):
    """Reports its address once it accepts connections."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[str], None]):
        super().__init__(config)
        self._on_start = on_start

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Let running replies finish at the first signal, and leave at once at the second."""
        # uvicorn would raise the signal again once the server has ended, as if that were an error.
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections."""
        await super().startup(sockets)
        # The socket knows which port 0 became. An address of IPv6 has two further parts.
        host, port = (sockets or [])[0].getsockname()[:2]
        self._on_start(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address.

    Raises:
        ConfigError: The address is not this machine's, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(f"Cannot find {host}: {error.strerror}.", setting="host") from error
    listener = socket.socket(family, kind, protocol)
    # A restart need not wait until the system has forgotten the last run's connections.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        text = f"Cannot listen on {host}, port {port}: {error.strerror}. Choose another `port`."
        raise ConfigError(text, setting="port") from error
    listener.set_inheritable(True)
    return listener

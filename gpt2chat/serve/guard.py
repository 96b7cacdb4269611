"""Refuse requests from other sites, under foreign host names and without the API key."""

import os
import secrets
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gpt2chat.core.errors import ConfigError
from gpt2chat.serve.errors import ApiError

KEY_VARIABLE = "GPT2CHAT_API_KEY"
OPEN_PATHS = ("/", "/health")
"""Paths that need no key: the page, which asks for it, and the check whether the server runs."""


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    # RFC 6761 reserves all names under `localhost` for the machine itself.
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def read_key(file: Path | None) -> str | None:
    """Return the API key of a file or the environment; None if there is none.

    Raises:
        ConfigError: The file cannot be read, or the key cannot be sent in a header.
    """
    key = os.environ.get(KEY_VARIABLE, "")
    if file is not None:
        try:
            key = file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigError(f"Cannot read {file}: {why}.", setting="api_key_file") from error
        if not key:
            raise ConfigError(f"{file} is empty. Write the key into it.", setting="api_key_file")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(
            "The API key must be printable ASCII without spaces.", setting="api_key_file"
        )
    return key or None


class Guard:
    """Middleware that checks the names in Host and Origin, and the API key.

    A page of another site can send requests to a server on the user's machine, and by DNS rebinding
    even under a name of its own. Host and Origin then have that name.

    Args:
        hosts: Host names under which the server may be asked; empty for any, which is only safe
            with a key.
        origins: Other origins whose pages may ask.
        key: The API key; None if none is needed.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], origins: Sequence[str], key: str | None):
        self._app = app
        self._hosts = frozenset(name.lower() for name in hosts)
        self._origins = frozenset(origins)
        self._key = key.encode() if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check(Headers(scope=scope), scope["path"], scope["method"])
            except ApiError as error:
                await error.response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, headers: Headers, path: str, method: str) -> None:
        host = headers.get("host", "")
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            name = None
        # `urlsplit` would read a name out of "localhost/x" and "x@localhost", too.
        if set(host) & set("/?#@\\ "):
            name = None
        if self._hosts and name not in self._hosts:
            raise ApiError(
                f"This server does not answer as {host[:80]!r}. Start it with `--allow-host` and "
                "that name.",
                403,
            )
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins:
            # The server's own page has its host and port in both headers. A file and a sandboxed
            # frame have the origin "null", which is nobody's.
            scheme, separator, authority = origin.partition("://")
            if not separator or scheme not in ("http", "https") or authority != host:
                raise ApiError(
                    f"Pages of {origin[:80]!r} may not ask this server. Start it with "
                    "`--cors-origin` and that origin.",
                    403,
                )
        # A browser asks for permission without the key before it sends the request.
        if self._key is None or path in OPEN_PATHS or method == "OPTIONS":
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # The time of the comparison does not tell how much of a wrong key is right. It takes a text
        # only if that is ASCII, and a header is Latin-1.
        right = secrets.compare_digest(given.strip().encode("latin-1", "replace"), self._key)
        if scheme.lower() != "bearer" or not right:
            raise ApiError(
                "The API key is missing or wrong. Send it as `Authorization: Bearer KEY`.",
                401,
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

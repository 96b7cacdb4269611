"""Read the body of a request, and take its parameters one by one."""

import asyncio
import json
from typing import Any, TypeVar, cast

from starlette.requests import ClientDisconnect, Request

from gpt2chat.core.text.bounded_json import parse_json
from gpt2chat.serve.errors import ApiError

LARGEST_BODY = 4 * 2**20
"""Bytes of the largest body: hundreds of times what fits the window."""
BODY_SECONDS = 30
"""Seconds within which a body must arrive."""

KindT = TypeVar("KindT")


async def read_object(request: Request) -> "Fields":
    """Return the JSON object that a request carries.

    Raises:
        ApiError: The body is too large or too slow, or not a JSON object in UTF-8.
        ClientDisconnect: The client went away.
    """
    parts, size = list[bytes](), 0
    too_large = ApiError(
        f"The body is larger than {LARGEST_BODY:,} bytes. Send fewer or shorter messages.",
        413,
        # The rest of the body is not read, so the connection cannot carry another request.
        headers={"connection": "close"},
    )
    length = request.headers.get("content-length", "0")
    # A body in chunks states no length, so its size is checked again as it arrives.
    if length.isdecimal() and int(length) > LARGEST_BODY:
        raise too_large
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > LARGEST_BODY:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise ApiError(
            f"The body did not arrive within {BODY_SECONDS} seconds.",
            408,
            headers={"connection": "close"},
        ) from None
    try:
        value = parse_json(b"".join(parts).decode())
    # The first two are ValueErrors as well. What is left is nested too deep, or a huge number.
    except UnicodeDecodeError as error:
        raise ApiError(f"The body is not valid UTF-8: byte {error.start}.") from None
    except json.JSONDecodeError as error:
        raise ApiError(f"The body is not valid JSON: {error}.") from None
    except ValueError as error:
        raise ApiError(f"The body cannot be read: {error}.") from None
    if not isinstance(value, dict):
        raise ApiError("The body must be a JSON object.")
    return Fields(cast(dict[str, Any], value))


class Fields:
    """The parameters of a request. `null` counts as left out.

    Each is taken once. What nobody has taken is refused, since ignoring a parameter would give the
    client something else than it asked for.
    """

    def __init__(self, values: dict[str, Any], path: str = ""):
        self._values = {name: value for name, value in values.items() if value is not None}
        self._path = path

    def take(self, name: str, kind: type[KindT], what: str) -> KindT | None:
        """Return a parameter of a type, None if it was left out.

        Args:
            what: The type in words, for the error.

        Raises:
            ApiError: It has another type.
        """
        value = self._values.pop(name, None)
        # In Python a bool is an int.
        if value is None or (isinstance(value, kind) and isinstance(value, bool) == (kind is bool)):
            return value
        raise self.error(name, f"must be {what}, not {json.dumps(value)[:60]}")

    def flag(self, name: str) -> bool:
        """Return a parameter that is true or false; false if it was left out."""
        return bool(self.take(name, bool, "true or false"))

    def text(self, name: str) -> str | None:
        """Return a parameter that is a text."""
        return self.take(name, str, "a text")

    def whole(self, name: str, lowest: int, highest: int | None = None) -> int | None:
        """Return a parameter that is a whole number in a range."""
        value = self.take(name, int, "a whole number")
        if value is not None and (value < lowest or (highest is not None and value > highest)):
            most = f" to {highest}" if highest is not None else ""
            limits = f"from {lowest}{most}" if most else f"at least {lowest}"
            raise self.error(name, f"must be {limits}, not {str(value)[:20]}")
        return value

    def inner(self, name: str) -> "Fields":
        """Return the parameters of a parameter that is an object."""
        value: Any = self.take(name, dict, "an object")
        return Fields(value or {}, f"{self._path}{name}.")

    def rest(self) -> dict[str, Any]:
        """Take all remaining parameters."""
        values, self._values = self._values, {}
        return values

    def refuse_rest(self) -> None:
        """Raise an error if a parameter has not been taken."""
        for name in self._values:
            raise self.error(name, "is not supported here. Leave it out")

    def error(self, name: str, why: str) -> ApiError:
        """Return the error that names a parameter."""
        path = f"{self._path}{name}"[:80]
        return ApiError(f"`{path}` {why}.", param=path)


__all__ = ["ClientDisconnect", "Fields", "read_object"]

"""Report what is wrong with a request as OpenAI's API does."""

import json
from collections.abc import Mapping

from starlette.responses import Response

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
"""OpenAI's `type` of an error by HTTP status; `invalid_request_error` for other 4xx."""


class ApiError(Exception):
    """A request that gets an error object in place of a result.

    Args:
        message: What is wrong, with the value, then what to do.
        status: The HTTP status.
        param: The parameter that caused it.
        code: OpenAI's name of the error, such as "context_length_exceeded".
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def as_dict(self) -> dict[str, object]:
        """The body of the response."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")
        return {
            "error": {
                "message": str(self),
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }

    @property
    def response(self) -> Response:
        """The whole response."""
        return Response(
            json.dumps(self.as_dict), self.status, self.headers, media_type="application/json"
        )

"""What goes wrong with a request, as its client is told."""

from typing import Any


class RequestError(Exception):
    """A request is refused, in the form of OpenAI's errors."""

    def __init__(
        self,
        message: str,  # what is wrong and what to do
        param: str | None = None,  # the field that it is about
        status: int = 400,
        code: str | None = None,  # a word for programs, as `model_not_found`
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.param, self.status, self.code = param, status, code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """Return what is sent."""
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        known = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": str(self),
                "type": kind.get(self.status, known),
                "param": self.param,
                "code": self.code,
            }
        }

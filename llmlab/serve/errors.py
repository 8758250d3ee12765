"""What goes wrong with a request, as its client is told."""

from typing import Any


class RequestError(Exception):
    """A request is refused, in the form of OpenAI's errors.

    Parameters
    ----------
    message
        What is wrong and what to do.
    param
        The field that it is about.
    status
        The HTTP status.
    code
        A word for programs, as `model_not_found`.
    headers
        Further headers of the answer.
    """

    def __init__(
        self,
        message: str,
        param: str | None = None,
        status: int = 400,
        code: str | None = None,
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

"""Which other sites' pages may ask, by the setting `cors_origins`; what is refused is told why."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi.middleware.cors import CORSMiddleware
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from api.errors import INVALID, error_body

_ASKED = {
    "origin": "origin",
    "method": "access-control-request-method",
    "headers": "access-control-request-headers",
    "private-network": "access-control-request-private-network",
}
"""The header that asks, by the framework's word for what it asks for."""
_SHOWN_CHARS = 100


class Cors(CORSMiddleware):
    """The framework's layer, with refusals of preflights in the shape of all errors.

    Args:
        app: Who answers the rest.
        origins: Sites whose pages may ask, for example "https://app.example".
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["x-request-id", "retry-after"],
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer what a browser asks before it sends a page's request."""
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        names = bytes(answer.body).decode().removeprefix("Disallowed CORS ").split(", ")
        got = [
            f"the {name} {request_headers.get(_ASKED.get(name, name), '')[:_SHOWN_CHARS]!r}"
            for name in names
        ]
        message = (
            f"CORS: got {', '.join(got)}; expected an origin of the setting cors_origins, "
            f"a method of {', '.join(self.allow_methods)} and headers of "
            f"{', '.join(sorted(name.lower() for name in self.allow_headers))}."
        )
        headers = {
            name: value
            for name, value in answer.headers.items()
            if name not in ("content-length", "content-type")
        }
        body = error_body(message, INVALID, "cors_refused", None)
        return JSONResponse(body, answer.status_code, headers)

"""One table from exception to HTTP status, and the shape that errors have.

The shape is OpenAI's: `{"error": {"message", "type", "param", "code"}}`. What went wrong inside the
server is told in general words only; the log has the rest under the request's id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route

from api.observing import failed
from api.wording import nearest, tag_at_fault, wording
from rag import errors

INVALID = "invalid_request_error"
SERVER = "server_error"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an exception means to a client.

    Attributes:
        status: The HTTP status.
        type: OpenAI's word for the kind of error.
        code: A stable word for this error.
        message: What is said instead of the exception's own words; "" says those.
        retry_after: Seconds after which asking again can help; 0: no such header.
    """

    status: int
    type: str
    code: str
    message: str = ""
    retry_after: int = 0


def _ours(status: int, code: str, message: str, retry_after: int = 0) -> Meaning:
    return Meaning(status, SERVER, code, message, retry_after)


_MODEL = "The server's model failed. Try again; if it persists, tell who runs the server."
_SET_UP = "The server is not set up for this. Tell who runs it."
_BUSY = "The server's database is busy. Try again in a moment."
_DISK = "The server's storage cannot be used now. Try again later."

MEANINGS: Mapping[type[errors.YoujuError], Meaning] = {
    errors.YoujuError: _ours(500, "server_error", "The server failed."),
    errors.UsageError: Meaning(400, INVALID, "invalid_request"),
    errors.ConfigError: _ours(500, "misconfigured", _SET_UP),
    errors.PathError: _ours(500, "misconfigured", _SET_UP),
    errors.SyncRunning: Meaning(409, INVALID, "sync_running"),
    errors.QueryError: Meaning(400, INVALID, "invalid_query"),
    errors.FilterError: Meaning(400, INVALID, "invalid_filter"),
    errors.ChatError: Meaning(400, INVALID, "invalid_messages"),
    errors.PromptTooLong: Meaning(400, INVALID, "context_length_exceeded"),
    errors.UnknownStore: Meaning(
        404, INVALID, "vector_store_not_found", "No vector store of that id or name."
    ),
    errors.UnknownFile: Meaning(404, INVALID, "file_not_found", "No file of that id."),
    errors.AlreadyThere: Meaning(409, INVALID, "file_in_store"),
    errors.UnknownKey: Meaning(404, INVALID, "key_not_found"),
    errors.CursorError: Meaning(400, INVALID, "invalid_cursor"),
    errors.QuotaError: Meaning(403, "permission_error", "quota_exceeded"),
    errors.TooLarge: Meaning(413, INVALID, "file_too_large"),
    errors.UploadError: Meaning(400, INVALID, "upload_mismatch"),
    errors.BackupError: _ours(500, "misconfigured", _SET_UP),
    errors.IndexMismatch: Meaning(
        409,
        INVALID,
        "index_mismatch",
        "The store was made by another embedding model than the server has now. Who runs the "
        "server can mend that with `youju reindex`.",
    ),
    errors.ChunkerMismatch: Meaning(
        409,
        INVALID,
        "index_mismatch",
        "The store's documents were cut up otherwise than the server would now. Who runs the "
        "server can mend that with `youju reindex`.",
    ),
    errors.DocumentRejected: Meaning(400, INVALID, "document_rejected"),
    errors.StorageError: _ours(503, "storage_unavailable", _DISK, retry_after=5),
    errors.StorageBusy: _ours(503, "storage_busy", _BUSY, retry_after=2),
    errors.ModelError: _ours(502, "model_failed", _MODEL),
    errors.MissingExtra: _ours(500, "misconfigured", _SET_UP),
    errors.CheckpointError: _ours(500, "misconfigured", _SET_UP),
    errors.AdapterMismatch: _ours(500, "misconfigured", _SET_UP),
    errors.GenerationFailed: _ours(500, "generation_failed", _MODEL),
    errors.OutOfMemory: _ours(503, "out_of_memory", "The model ran out of memory.", retry_after=5),
    errors.QueueFull: Meaning(
        429, "rate_limit_error", "queue_full", "Too many answers are being written.", retry_after=1
    ),
    errors.EngineClosed: _ours(503, "shutting_down", "The model is shutting down.", retry_after=5),
    errors.ToolCallError: _ours(502, "model_failed", _MODEL),
    errors.EvalDataError: _ours(500, "misconfigured", _SET_UP),
}
"""Every error of rag.errors; a test fails if one is missing."""


class ApiError(Exception):
    """An error that is known where a request is read, with all that the client gets.

    Args:
        status: The HTTP status, 400 to 599.
        message: What was got, what was expected, what to do.
        code: A stable word.
        param: The field at fault.
        kind: OpenAI's word for the kind of error.
        headers: To send with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        kind: str = INVALID,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.kind = kind
        self.headers = dict(headers or {})


def not_found(what: str, id_: str) -> ApiError:
    """Return the error for an object that is not there, or is another project's."""
    code = what.lower().replace(" ", "_")
    return ApiError(404, f"No {what} with id {id_[:80]!r}.", code=f"{code}_not_found", param="id")


def error_body(message: str, kind: str, code: str | None, param: str | None) -> dict[str, Any]:
    """Return the body that an error has."""
    message = _printable(message)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def meaning_of(error: errors.YoujuError) -> Meaning:
    """Return what an error means: the entry of its class, or of the nearest above it."""
    return next(MEANINGS[kind] for kind in type(error).__mro__ if kind in MEANINGS)


def as_api_error(error: errors.YoujuError, path: str = "") -> ApiError:
    """Return an error as a client gets it.

    Args:
        error: What went wrong.
        path: The request's, by which the field at fault is known; "": it is not named.
    """
    meaning = meaning_of(error)
    headers = {"retry-after": str(meaning.retry_after)} if meaning.retry_after else {}
    return ApiError(
        meaning.status,
        meaning.message or str(error),
        code=meaning.code,
        param=_param(error, path),
        kind=meaning.type,
        headers=headers,
    )


def _param(error: errors.YoujuError, path: str) -> str | None:
    """Return the field of a request at which an error of ours points, if that is known."""
    match error:
        case errors.FilterError():
            return "filters"
        case errors.CursorError():
            return error.message.partition(":")[0]  # "after" or "before"
        case errors.QueryError() | errors.PromptTooLong():
            return next((field for end, field in _ASKED if path.endswith(end)), None)
        case _:
            return None


_ASKED = (("/responses", "input"), ("/chat/completions", "messages"), ("/search", "query"))
_SHOWN_CHARS = 200  # of a name that a client made up

DIFY_PATH = "/retrieval"
_DIFY_CODES = {
    "missing_api_key": (403, 1001),
    "invalid_api_key": (403, 1002),
    "insufficient_scope": (403, 1002),
    "vector_store_not_found": (404, 2001),
}


def answer_with(request: Request, error: ApiError) -> JSONResponse:
    """Return the response for an error, in Dify's shape where Dify asks."""
    if request.url.path == DIFY_PATH:
        status, code = _DIFY_CODES.get(error.code, (error.status, error.status))
        said = {"error_code": code, "error_msg": _printable(error.message)}
        return JSONResponse(said, status, headers=error.headers)
    body = error_body(error.message, error.kind, error.code, error.param)
    return JSONResponse(body, error.status, headers=error.headers)


def answer_error(request: Request, error: ApiError | errors.YoujuError) -> JSONResponse:
    """Return the response for an error that is known; log it if it is the server's own."""
    if isinstance(error, ApiError):
        return answer_with(request, error)
    known = as_api_error(error, request.url.path)
    if known.status >= 500:
        failed(request.scope, error)
    return answer_with(request, known)


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Have the application answer every error in the one shape.

    Args:
        app: The application.
        routes: All of its routes; a refused method is told the others of the same path.
    """

    def on_known(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError | errors.YoujuError)
        return answer_error(request, error)

    def on_invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return answer_with(request, _explain(error, request.headers))

    def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if error.status_code == 400 and error.detail == _UNREADABLE:
            return answer_with(request, _unreadable(request.headers, error.__cause__))
        headers = dict(error.headers or {})
        message = str(error.detail)
        if error.status_code == 404:
            message = f"No route has the path {request.url.path[:_SHOWN_CHARS]!r}. See /docs."
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_methods(request, routes))
            message = f"Got the method {request.method}, expected one of {headers['Allow']}."
        known = ApiError(
            error.status_code,
            message,
            code={404: "unknown_url", 405: "method_not_allowed"}.get(
                error.status_code, "http_error"
            ),
            headers=headers,
        )
        return answer_with(request, known)

    def on_anything(request: Request, error: Exception) -> JSONResponse:
        failed(request.scope, error)
        return answer_with(request, as_api_error(errors.YoujuError("")))

    app.add_exception_handler(ApiError, on_known)
    app.add_exception_handler(errors.YoujuError, on_known)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_anything)


def _methods(request: Request, routes: Sequence[BaseRoute]) -> list[str]:
    """Return the methods that the path of a request takes."""
    found: set[str] = set()
    for route in routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return sorted(found)


_UNREADABLE = "There was an error parsing the body"  # FastAPI's words for what is no JSON error


def _unreadable(headers: Mapping[str, str], cause: BaseException | None) -> ApiError:
    """Say why a body cannot be read as JSON."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        return ApiError(
            415,
            f"The body has the content-encoding {encoding[:40]!r}: send it uncompressed.",
            code="unsupported_media_type",
        )
    match cause:
        case UnicodeDecodeError():
            message = "The body is not in UTF-8: send JSON in UTF-8."
        case RecursionError():
            message = "The body is nested too deeply."
        case None:
            message = "The body is not valid JSON."
        case _:
            message = "The body is not JSON that can be read, for example a number is too long."
    return ApiError(400, message, code="invalid_json")


def _explain(error: RequestValidationError, headers: Mapping[str, str]) -> ApiError:
    """Say in one line which field is wrong, and how."""
    forms = nearest(
        error.errors(), lambda one: _fields(list(one["loc"])[1:], error.body, missing=False)
    )
    first = forms[0]
    kind, place = first["type"], list(first["loc"])
    if kind == "json_invalid":
        return _unreadable(headers, None)
    inside = place[1:] if place and place[0] in ("body", "query", "path", "header") else place
    if place == ["body"] and kind != "missing" and not _is_json(headers.get("content-type", "")):
        return ApiError(
            415,
            "Expected a body of type application/json.",
            code="unsupported_media_type",
        )
    tag = tag_at_fault(first)
    if place and place[0] == "body":
        inside = _fields(inside, error.body, missing=kind == "missing")
    if tag is not None:
        inside = [*inside, tag[0]]
        kind = "missing" if not tag[1] else kind
    param = _printable(".".join(map(str, inside))[:_SHOWN_CHARS]) or None
    if kind == "extra_forbidden":
        return ApiError(
            400, f"Unknown field {param!r}. See /docs.", code="unknown_parameter", param=param
        )
    if kind == "missing":
        what = f"field {param!r}" if param else "a body of type application/json"
        return ApiError(400, f"Missing: {what}.", code="missing_parameter", param=param)
    said = tag[1] if tag else wording(forms)
    return ApiError(400, f"{param or 'The body'}: {said}.", code="invalid_parameter", param=param)


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind[-5:] == "+json")


def _printable(text: str) -> str:
    """Return a text with what no answer can hold (half a surrogate pair) replaced."""
    return text.encode("utf-8", "replace").decode()


def _fields(place: Sequence[str | int], body: Any, *, missing: bool) -> list[str | int]:  # noqa: ANN401
    """Return a place without the names of our own types, which are no fields of the body."""
    kept: list[str | int] = []
    for number, part in enumerate(place):
        if isinstance(body, dict) and part in body:
            body = body[part]
        elif isinstance(body, list) and isinstance(part, int) and part < len(body):
            body = body[part]
        elif not (missing and number == len(place) - 1):
            continue
        kept.append(part)
    return kept

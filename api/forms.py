"""Reads a multipart form as it arrives: one file to disk, a few short fields to memory.

A framework's own form parser would keep a second copy of the file, and know of its size too late.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from api.errors import ApiError
from rag.errors import TooLarge
from rag.store.blobs import Incoming

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_FIELD_BYTES = 4096
_FIELDS = 16
_CODED = re.compile(rb""";\s*filename\*\s*=\s*"?utf-8'[^'";]*'([^'";\s]+)""", re.IGNORECASE)

Run = Callable[[Callable[[bytes], int], bytes], Awaitable[int]]
"""Runs a function with an argument off the event loop."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a form held beside its file.

    Attributes:
        fields: Short texts by name.
        filename: What the client calls the file.
    """

    fields: dict[str, str]
    filename: str


async def read_form(
    request: Request, incoming: Incoming, *, file_field: str, max_bytes: int, run: Run
) -> Form:
    """Read a request's form; its file goes to `incoming`.

    Args:
        request: Whose body it is.
        incoming: Where the file is written.
        file_field: Name of the file's field.
        max_bytes: Largest file.
        run: Runs the writing to disk.

    Raises:
        ApiError: If it is no form, is cut off, or the file is not in it.
        TooLarge: If the file is larger than allowed.
        StorageError: If it cannot be written.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= 70:
        raise ApiError(
            415,
            "Expected a body of type multipart/form-data.",
            code="unsupported_media_type",
            param="file",
        )
    reader = _Reader(incoming, file_field, max_bytes)
    parser = MultipartParser(boundary, reader.callbacks())
    try:
        async for data in request.stream():
            if data:
                await run(parser.write, data)
    except FormParserError as error:
        raise _malformed(str(error)) from error
    except ClientDisconnect as error:
        raise _malformed("the client went away") from error
    if not reader.ended:
        raise _malformed("it ends before its last boundary")
    if reader.filename is None:
        raise ApiError(
            400,
            f"Missing: the form field {file_field!r} with a file.",
            code="missing_parameter",
            param=file_field,
        )
    return Form(reader.fields, reader.filename)


def _filename(plain: bytes, disposition: bytes) -> str:
    """Return a file's name from the value of `filename`, or of `filename*` where that says nothing.

    .NET sends names that are not ASCII so; curl on a Chinese Windows sends them in GB 18030.
    """
    if not plain or plain.startswith(b"=?"):
        coded = _CODED.search(disposition)
        if coded:
            return unquote_to_bytes(coded[1]).decode("utf-8", "replace")
    for encoding in ("utf-8", "gb18030"):
        with suppress(UnicodeDecodeError):
            return plain.decode(encoding)
    return plain.decode("utf-8", "replace")


def _malformed(why: str) -> ApiError:
    return ApiError(400, f"The form is malformed: {why}.", code="malformed_form")


class _Reader:
    """What the parser calls."""

    def __init__(self, incoming: Incoming, file_field: str, max_bytes: int) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.ended = False
        self._incoming = incoming
        self._file_field = file_field
        self._max = max_bytes
        self._header = self._value = b""
        self._disposition = b""
        self._name = ""
        self._text = b""
        self._in_file = False

    def callbacks(self) -> MultipartCallbacks:
        """Return what the parser wants."""
        return {
            "on_part_begin": self.part_begin,
            "on_part_data": self.part_data,
            "on_part_end": self.part_end,
            "on_header_field": self.header_field,
            "on_header_value": self.header_value,
            "on_header_end": self.header_end,
            "on_headers_finished": self.headers_finished,
            "on_end": self.end,
        }

    def part_begin(self) -> None:
        """A part begins."""
        self._disposition = self._text = self._header = self._value = b""

    def header_field(self, data: bytes, start: int, end: int) -> None:
        """Take a piece of a header's name."""
        self._header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        """Take a piece of a header's value."""
        self._value += data[start:end]

    def header_end(self) -> None:
        """A header is whole."""
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def headers_finished(self) -> None:
        """Find out what the part is."""
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._in_file = self._name == self._file_field
        if self._in_file:
            if self.filename is not None:
                raise ApiError(
                    400,
                    f"{self._file_field}: got two files, expected one.",
                    code="invalid_parameter",
                    param=self._file_field,
                )
            self.filename = _filename(options.get(b"filename", b""), self._disposition)
        elif len(self.fields) >= _FIELDS:
            raise _malformed(f"it has more than {_FIELDS} fields")

    def part_data(self, data: bytes, start: int, end: int) -> None:
        """Take a piece of a part."""
        if self._in_file:
            if self._incoming.size + end - start > self._max:
                raise TooLarge(
                    f"file: got more than the {self._max / 2**20:g} MiB allowed.",
                    do="Split it, or ask who runs the server to allow more.",
                )
            self._incoming.write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > _FIELD_BYTES:
            raise _malformed(f"the field {self._name[:40]!r} is longer than {_FIELD_BYTES} bytes")

    def part_end(self) -> None:
        """A part is whole."""
        if not self._in_file:
            self.fields[self._name] = self._text.decode("utf-8", "replace")

    def end(self) -> None:
        """The form is whole."""
        self.ended = True

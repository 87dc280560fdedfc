"""Names of files as clients give them: shown, never used as a path."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

from api.errors import ApiError
from ingest.discover import SUPPORTED, media_type, printable

LONGEST = 255


def checked_name(given: str) -> tuple[str, str]:
    """Return a file's name without folders and invisible characters, and its media type.

    Raises:
        ApiError: 400 if nothing is left, 415 if files of that kind are not supported.
    """
    name = PureWindowsPath(PurePosixPath(given.replace("\0", "")).name).name
    name = printable(name).strip()
    if not name or name in (".", ".."):
        raise ApiError(400, "file: it has no name.", code="invalid_filename", param="filename")
    if len(name) > LONGEST:
        raise ApiError(
            400,
            f"file: its name has {len(name)} characters; at most {LONGEST} are allowed.",
            code="invalid_filename",
            param="filename",
        )
    kind = media_type(name)
    if kind is None:
        raise ApiError(
            415,
            f"{name[:80]}: files of this kind are not supported. Supported are: "
            f"{' '.join(sorted(SUPPORTED))}.",
            code="unsupported_file_type",
            param="file",
        )
    return name, kind

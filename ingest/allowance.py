"""What parsing one file may use, and what has been used of it.

One Allowance goes with one file through every parser; a container hands it on to the parsers of its
members, so that the limits hold for the whole tree. It parses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rag.errors import DocumentRejected

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_MEMBERS = 10_000
"""Members of one file, those of nested containers included."""

MAX_DEPTH = 3
"""Containers within each other: an archive in a mail in an archive, and no more."""

MAX_UNPACKED = 1 << 30
"""Bytes that the members of one file may be together, where nothing else is said."""

OCR_PAGES = 200
"""Pages and pictures of one file that are read by OCR, where nothing else is said."""


class PageReader(Protocol):
    """Reads the text of a picture."""

    def read(self, image: NDArray[np.uint8]) -> list[str]:
        """Return the lines of a picture in reading order; [] where it shows no text.

        Args:
            image: (height, width, 3) RGB.
        """
        ...


class AllowanceSpent(DocumentRejected):
    """A limit for the whole file was reached: no further member is looked at."""

    def __init__(self, message: str, do: str) -> None:
        super().__init__(message, reason="limit", do=do)


class Allowance:
    """The limits of one file; made afresh for each.

    Args:
        passwords: Tried on what is encrypted; never shown.
        reader: Reads pictures; None where that is not possible or not wanted now.
        ocr_pages: Pages and pictures it may read, >= 1.
        unpacked: Bytes that all members may be together, >= 1.
        members: Members that may be looked at, >= 1.

    Attributes:
        wanted_ocr: Pages and pictures that could not be read because there was no reader.
    """

    def __init__(
        self,
        *,
        passwords: Sequence[str] = (),
        reader: PageReader | None = None,
        ocr_pages: int = OCR_PAGES,
        unpacked: int = MAX_UNPACKED,
        members: int = MAX_MEMBERS,
    ) -> None:
        self.passwords = tuple(passwords)
        self.reader = reader
        self.wanted_ocr = 0
        self._pages = ocr_pages
        self._unpacked, self._bytes_left = unpacked, unpacked
        self._members, self._members_left = members, members
        self._depth = 0

    @property
    def bytes_left(self) -> int:
        """Bytes that may still be unpacked."""
        return self._bytes_left

    @contextmanager
    def container(self) -> Iterator[None]:
        """Be inside one more container.

        Raises:
            DocumentRejected: reason "limit" where that is too deep.
        """
        if self._depth >= MAX_DEPTH:
            raise DocumentRejected(
                f"Archives and mails within each other are read {MAX_DEPTH} deep; this is deeper.",
                reason="limit",
                do="Unpack it first.",
            )
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def member(self) -> None:
        """Count one member.

        Raises:
            AllowanceSpent: If there were too many already.
        """
        if self._members_left < 1:
            raise AllowanceSpent(
                f"It holds more than {self._members:,} members.", "Unpack it and ingest the folder."
            )
        self._members_left -= 1

    def unpack(self, size: int) -> None:
        """Count `size` unpacked bytes.

        Raises:
            AllowanceSpent: If the members are larger together than they may be.
        """
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise AllowanceSpent(
                f"Unpacked it is larger than {self._unpacked:,} bytes.",
                "Split it, or raise the setting max_unpacked_mib.",
            )

    def ocr_page(self) -> bool:
        """Count a page or picture that is to be read; False when no more may be."""
        if self._pages < 1:
            return False
        self._pages -= 1
        return True

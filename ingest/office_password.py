"""Opening encrypted Office files, packages in an OLE container, with known passwords."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from io import BytesIO

from ingest.packages import OLE
from rag.errors import DocumentRejected

_MARK = "EncryptedPackage".encode("utf-16-le")


def opened_package(data: bytes, passwords: Sequence[str]) -> bytes:
    """Return the package inside an encrypted .docx, .xlsx or .pptx; other data as it is.

    Raises:
        DocumentRejected: reason "encrypted" if no password opens it.
    """
    if not data.startswith(OLE) or _MARK not in data or not passwords:
        return data
    import msoffcrypto
    from msoffcrypto.exceptions import DecryptionError, FileFormatError, InvalidKeyError, ParseError

    for password in passwords:
        opened = BytesIO()
        try:
            file = msoffcrypto.OfficeFile(BytesIO(data))
            file.load_key(password=password, verify_password=True)
            file.decrypt(opened, verify_integrity=False)
        except (DecryptionError, FileFormatError, InvalidKeyError, ParseError, OSError, ValueError):
            continue
        if zipfile.is_zipfile(opened):
            return opened.getvalue()
    raise DocumentRejected(
        "The Office document is encrypted, and no password of document_passwords opens it.",
        reason="encrypted",
        do="Add its password to the setting document_passwords, or remove it from the file.",
    )

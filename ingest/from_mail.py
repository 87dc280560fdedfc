"""Mail (EML) and saved web pages (MHTML) -> Document: headers, body, attachments as members.

The standard library reads the structure; what it makes of headers and character sets is checked
here, because mails lie about both. Nothing that a mail points to is fetched.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from functools import partial
from typing import cast

from ingest.allowance import Allowance
from ingest.blocks import clip, one_line
from ingest.discover import SUPPORTED
from ingest.encoding import decode, plain
from ingest.from_html import html_document
from ingest.members import Members
from rag.errors import DocumentRejected
from rag.schema import Document

_HEADERS = ("From", "To", "Cc", "Date", "Subject")
_WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs", "iso-8859-1": "cp1252"}
_MAX_PARTS = 2000
_MAX_HEADER = 2000
_WORD = re.compile(r"[^\W_\u2e80-\u9fff]+|[\u2e80-\u9fff]")
_NEW_IN_HTML = 0.2
_SHORTEST_LINE = 4
_HEADER_LINE = re.compile(rb"\A(?:>?From [^\n]*\n)?[!-9;-~]{1,100}:[ \t\r\n]")


@dataclass(slots=True)
class Letter:
    """A mail, taken apart.

    Attributes:
        headers: (name, value) in the order in which they are shown; empty values are left out.
        plain, html: The bodies, decoded; "" where there is none. HTML is markup.
        attachments: (file name, bytes).
        letters: Attached mails that are already taken apart: (name, mail).
        warnings: What was told while it was taken apart.
    """

    headers: list[tuple[str, str]] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)
    html: list[str] = field(default_factory=list)
    attachments: list[tuple[str, bytes]] = field(default_factory=list)
    letters: list[tuple[str, Letter]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def mail_document(data: bytes, allowance: Allowance) -> Document:
    """Parse a mail.

    Args:
        data: An RFC 5322 message.
        allowance: The limits of its attachments.

    Raises:
        DocumentRejected: reason "unsupported" if it does not begin with a header, "empty".
    """
    if not _HEADER_LINE.match(data.lstrip(b"\xef\xbb\xbf\r\n")):
        raise DocumentRejected(
            "Not a mail: it does not begin with a header line.",
            reason="unsupported",
            do="Give the file the suffix of its real format.",
        )
    message = message_from_bytes(data.lstrip(b"\xef\xbb\xbf\r\n"), policy=policy.compat32)
    letter = Letter(headers=[(name, _header(message, name)) for name in _HEADERS])
    _take_apart(message, letter)
    return letter_document(letter, allowance, SUPPORTED[".eml"])


def mhtml_document(data: bytes, allowance: Allowance) -> Document:
    """Parse a saved web page: its first HTML part; pictures and frames are left out.

    Raises:
        DocumentRejected: reason "unsupported" if there is none.
    """
    message = message_from_bytes(data, policy=policy.compat32)
    for part in message.walk():
        if part.get_content_type() in ("text/html", "application/xhtml+xml"):
            content = _payload(part)
            allowance.unpack(len(content))
            document = html_document(_text(content, _charset(part), html=True))
            title = document.title or clip(_header(message, "Subject"))
            return Document(
                document.text, title, sections=document.sections, media_type=SUPPORTED[".mhtml"]
            )
    raise DocumentRejected("Not a saved web page: no HTML in it.", reason="unsupported")


def letter_document(letter: Letter, allowance: Allowance, media_type: str) -> Document:
    """Make the Document of a mail: headers, body, then what the attachments hold.

    Raises:
        DocumentRejected: If it holds no text.
    """
    with allowance.container():
        members = Members(allowance)
        headers = "\n".join(f"{name}: {value}" for name, value in letter.headers if value)
        members.own(Document(headers, warnings=tuple(letter.warnings)))
        for document in _bodies(letter.plain, letter.html):
            members.own(document)
        for name, content in letter.attachments:
            allowance.member()
            allowance.unpack(len(content))
            members.add(name, content)
        for name, inner in letter.letters:
            allowance.member()
            members.add_made(name, partial(letter_document, inner, allowance, media_type))
        return members.finish(media_type, dict(letter.headers).get("Subject", ""))


def _bodies(plains: Sequence[str], pages: Sequence[str]) -> list[Document]:
    """Return the plain body, and the HTML one where it says something else."""
    text = "\n\n".join(plain(body).strip() for body in plains if body.strip())
    bodies = [Document(text)] if text else []
    for page in pages:
        document = html_document(page)
        if _says_more(document.text, text):
            bodies.append(document)
    return bodies


def _says_more(page: str, text: str) -> bool:
    """Whether a page says what a text does not: a line of it, or a fifth of all its words.

    Words are words, and characters in Chinese; a line is new when half of its words are.
    """
    known = set(_WORD.findall(text.lower()))
    total = new = 0
    for line in page.lower().split("\n"):
        words = _WORD.findall(line)
        unknown = sum(word not in known for word in words)
        if len(words) >= _SHORTEST_LINE and unknown * 2 >= len(words):
            return True
        total += len(words)
        new += unknown
    return new > _NEW_IN_HTML * total


def _take_apart(message: Message, letter: Letter) -> None:
    """Sort the parts of a message into bodies and attachments."""
    waiting = [message]
    seen = 0
    while waiting:
        part = waiting.pop(0)
        seen += 1
        if seen > _MAX_PARTS:
            letter.warnings.append(f"Only the first {_MAX_PARTS:,} parts of the mail were read.")
            return
        kind = part.get_content_type()
        if kind == "message/rfc822" and part.is_multipart():
            inner = cast(list[Message], part.get_payload())[0]
            name = one_line(_header(inner, "Subject"))[:80].replace("/", " ") or "message"
            letter.attachments.append((f"{name}.eml", inner.as_bytes()))
        elif part.is_multipart():
            waiting[:0] = cast(list[Message], part.get_payload())
        else:
            _sort_part(part, kind, letter, seen)


def _sort_part(part: Message, kind: str, letter: Letter, number: int) -> None:
    content = _payload(part)
    name = _file_name(part)
    attached = (part.get_content_disposition() or "") == "attachment" or bool(name)
    if not attached and kind in ("text/plain", "text/html"):
        try:
            text = _text(content, _charset(part), html=kind == "text/html")
        except DocumentRejected as error:
            letter.warnings.append(f"Part {number} of the mail: {error.message}")
            return
        (letter.html if kind == "text/html" else letter.plain).append(text)
    elif kind.startswith("image/") and not attached:
        return  # decoration
    elif content and (attached or kind not in ("application/pgp-signature",)):
        suffix = mimetypes.guess_extension(kind) or ""
        letter.attachments.append((name or f"part {number}{suffix}", content))


def _payload(part: Message) -> bytes:
    """Return the decoded bytes of a part; what cannot be decoded comes as it stands."""
    try:
        content = part.get_payload(decode=True)
    except (ValueError, LookupError, AssertionError):
        content = None
    if isinstance(content, bytes):
        return content
    raw = part.get_payload()
    return raw.encode("utf-8", "surrogateescape") if isinstance(raw, str) else b""


def _charset(part: Message) -> str:
    try:
        return (part.get_content_charset() or "").lower()
    except (ValueError, LookupError, TypeError):
        return ""


def _file_name(part: Message) -> str:
    try:
        name = part.get_filename() or ""
    except (ValueError, LookupError, TypeError, IndexError):
        return ""
    return _words(name).replace("\\", "/").rsplit("/", 1)[-1].strip()


def _text(content: bytes, charset: str, *, html: bool) -> str:
    """Decode a body as it declares itself, else by looking at it.

    Raises:
        DocumentRejected: reason "not-text".
    """
    if charset not in ("", "us-ascii", "utf-8", "utf-16"):
        try:
            return content.decode(_WIDER.get(charset, charset)).replace("\r\n", "\n")
        except (UnicodeDecodeError, LookupError, ValueError):
            pass
    return decode(content, html=html).text if content.strip() else ""


def _header(message: Message, name: str) -> str:
    """Return a header's value on one line, its encoded words decoded."""
    value = message.get(name)
    if value is None:
        return ""
    parts = [(value, None)] if isinstance(value, str) else decode_header(value)
    raw = "".join(
        part if isinstance(part, str) else part.decode("ascii", "surrogateescape")
        for part, _ in parts
    )
    return one_line(_words(raw[:_MAX_HEADER]))


def _words(raw: str) -> str:
    """Decode the encoded words of a header and what stands in it as bare bytes."""
    try:
        pieces = decode_header(raw)
    except (HeaderParseError, ValueError):
        pieces = [(raw, None)]
    done: list[str] = []
    for piece, charset in pieces:
        content = piece if isinstance(piece, bytes) else piece.encode("utf-8", "surrogateescape")
        if content.isascii():
            done.append(content.decode("ascii"))
            continue
        try:
            done.append(_text(content, (charset or "").lower(), html=False))
        except DocumentRejected:
            done.append(content.decode("utf-8", "replace"))
    return "".join(done)

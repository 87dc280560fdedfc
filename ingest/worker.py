"""The process inside the fence: reads files from its parent, answers with parsed texts.

Started by ingest.fence and by nothing else. It puts its own limits in place before it reads the
first byte (memory, processor time, no file writes, no network, no other programs) and
never opens a file a document names. The protocol is in `read_message` and `write_message`: a
length-prefixed JSON header, then a raw body. Nothing is ever unpickled or evaluated.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, BinaryIO

from ingest.allowance import Allowance, PageReader
from ingest.isolation import isolate
from rag.errors import DocumentRejected
from rag.schema import Document

_HEAD = struct.Struct(">IQ")
MAX_HEADER = 64 << 20
"""Bytes a message's JSON header may take."""

FOLDER_PREFIX = "youju-parse-"
"""Begins the name of the folder that a worker runs in and that is its alone."""

_MIB = 1 << 20
_OPEN_FILES = 48

Parse = Callable[[bytes, str, Allowance], Document]


def main(arguments: list[str], parse: Parse | None = None) -> None:
    """Serve until the parent closes the pipe.

    Args:
        arguments: "text", "native" (also PDF, Office and containers) or "ocr" (also pictures),
            memory above the idle process in MiB, processor seconds per file, characters of text
            per file.
        parse: Another parser, for tests only; the parent cannot choose it through messages.
    """
    memory_mib, cpu_s, max_chars = (int(value) for value in arguments[1:])
    source, target = _take_pipes()
    isolate()
    _watch_parent(source)
    if parse is None:
        import ingest.parse

        parse = ingest.parse.parse
    if arguments[0] != "text":
        _load_native()
    reader: PageReader | None = None
    if arguments[0] == "ocr":
        from ingest.ocr import RapidReader

        reader = RapidReader(ocr_threads())
    _set_limits(memory_mib)
    try:
        write_message(target, {"ready": True}, b"")
        while (message := read_message(source, MAX_HEADER, None)) is not None:
            header, body = message
            _allow_cpu(cpu_s)
            write_message(target, *_answer(parse, header, body, max_chars, reader))
    finally:
        _remove_folder()  # nobody else does if the parent was killed


def ocr_threads() -> int:
    """Return how many processor threads OCR takes."""
    return min(4, os.cpu_count() or 1)


def read_message(
    source: BinaryIO, max_header: int, max_body: int | None
) -> tuple[dict[str, Any], bytes] | None:
    """Read one message; None at the end of the stream.

    Raises:
        ValueError: If it is torn, too long or not a JSON object.
    """
    head = source.read(_HEAD.size)
    if not head:
        return None
    if len(head) < _HEAD.size:
        raise ValueError("torn message")
    header_size, body_size = _HEAD.unpack(head)
    if header_size > max_header or (max_body is not None and body_size > max_body):
        raise ValueError("message too long")
    header = source.read(header_size)
    body = source.read(body_size)
    if len(header) < header_size or len(body) < body_size:
        raise ValueError("torn message")
    value = json.loads(header)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value, body


def write_message(target: BinaryIO, header: dict[str, Any], body: bytes) -> None:
    """Write one message and flush it."""
    coded = json.dumps(header, separators=(",", ":")).encode("ascii")
    target.write(_HEAD.pack(len(coded), len(body)) + coded)
    target.write(body)
    target.flush()


def _answer(
    parse: Parse,
    header: dict[str, Any],
    body: bytes,
    max_chars: int,
    reader: PageReader | None,
) -> tuple[dict[str, Any], bytes]:
    allowance = Allowance(
        passwords=header["passwords"],
        reader=reader if header["ocr"] else None,
        ocr_pages=header["ocr_pages"],
        unpacked=header["unpacked"],
    )
    answer, text = _parsed(parse, str(header["name"]), body, max_chars, allowance)
    answer["wanted_ocr"] = allowance.wanted_ocr
    return answer, text


def _parsed(
    parse: Parse, name: str, body: bytes, max_chars: int, allowance: Allowance
) -> tuple[dict[str, Any], bytes]:
    try:
        document = parse(body, name, allowance)
        if len(document.text) > max_chars:
            raise DocumentRejected(
                f"It holds {len(document.text):,} characters; the limit is {max_chars:,}.",
                reason="limit",
                do="Split it.",
            )
        fields = asdict(document)
        return fields, fields.pop("text").encode("utf-8", "replace")
    except DocumentRejected as error:
        return {"reason": error.reason, "message": error.message, "do": error.do}, b""
    except (MemoryError, RecursionError) as error:
        what = "more memory than" if isinstance(error, MemoryError) else "deeper nesting than"
        return {"reason": "limit", "message": f"It needs {what} the parser may use.", "do": ""}, b""


def _load_native() -> None:
    """Load kreuzberg; it unpacks its PDF library into TMPDIR, which the limits forbid later."""
    import kreuzberg

    try:
        kreuzberg.extract_bytes_sync(
            b"%PDF-1.4\n", "application/pdf", kreuzberg.ExtractionConfig(use_cache=False)
        )
    except kreuzberg.KreuzbergError:
        return  # not a PDF, as expected; what cannot be loaded is reported with the first file


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Move the pipes away from descriptors 0 and 1, so that no library can write into them."""
    source = os.fdopen(os.dup(0), "rb", buffering=1 << 16)
    target = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    empty = os.open(os.devnull, os.O_RDWR)
    os.dup2(empty, 0)
    os.dup2(empty, 1)
    os.close(empty)
    return source, target


def _watch_parent(source: BinaryIO) -> None:
    """Clean up and exit at once when the parent is gone, even in the middle of a file."""
    if sys.platform == "win32":
        return
    import select

    poller = select.poll()
    poller.register(source.fileno(), 0)

    def wait() -> None:
        while not poller.poll():
            time.sleep(0.05)
        _remove_folder()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _remove_folder() -> None:
    """Remove the folder that was made for this process, if there is one."""
    folder = os.environ.get("TMPDIR", "")
    if os.path.basename(folder).startswith(FOLDER_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def _set_limits(memory_mib: int) -> None:
    """Limit memory, open files, written files and core dumps; nothing to do on Windows."""
    if sys.platform == "win32":
        return
    import resource

    def limit(kind: int, value: int) -> None:
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):
            return

    os.umask(0o077)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, 0)
    limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    if sys.platform.startswith("linux"):
        limit(resource.RLIMIT_AS, _address_space() + memory_mib * _MIB)
    else:
        limit(resource.RLIMIT_DATA, memory_mib * _MIB)


def _address_space() -> int:
    """Bytes of address space the idle process has mapped (libraries, mostly never touched)."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _allow_cpu(seconds: int) -> None:
    """Grant processor time for one more file; the soft limit counts the whole process."""
    if sys.platform == "win32":
        return
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(used.ru_utime + used.ru_stime) + seconds + 1
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))

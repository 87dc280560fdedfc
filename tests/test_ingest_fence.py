import errno
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.fence import ParserPool, _document
from ingest.fence_folder import WorkerFolder, sweep
from rag.errors import DocumentRejected
from rag.schema import Document

ROOT = str(Path(__file__).resolve().parents[1])
posix = pytest.mark.skipif(sys.platform == "win32", reason="the fence is weaker on Windows")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit of Linux")

FAKE = """
import ctypes, os, signal, socket, sys, time
sys.path.insert(0, sys.argv.pop(1))
from ingest.worker import main
from rag.errors import DocumentRejected
from rag.schema import Document, Span

def parse(data, name, allowance):
    order = data.decode()
    if order.startswith("sleep"):
        time.sleep(60)
    elif order == "spin":
        while True:
            pass
    elif order == "memory":
        return Document(str(len(bytearray(10 << 30))))
    elif order == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif order == "exit":
        os._exit(3)
    elif order == "deep":
        return parse(data, name, allowance)
    elif order == "print":
        print("garbage on standard output", flush=True)
        os.write(1, b"more of it" * 10_000)
        os.write(2, b"noise\\n" * 50_000)
    elif order == "write":
        try:
            with open("file", "wb") as file:
                file.write(b"x" * 100_000)
        except OSError as error:
            return Document(f"refused: {error.errno}")
    elif order == "network":
        try:
            with socket.socket() as probe:
                probe.settimeout(5)
                return Document(str(probe.connect_ex(("127.0.0.1", int(name.split(".")[0])))))
        except PermissionError:
            return Document("no sockets")
    elif order == "native network":
        libc = ctypes.CDLL(None, use_errno=True)
        answer = libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0)
        return Document(f"{answer} {ctypes.get_errno()}")
    elif order == "program":
        libc = ctypes.CDLL(None, use_errno=True)
        arguments = (ctypes.c_char_p * 2)(b"/bin/true", None)
        answer = libc.execv(b"/bin/true", arguments)
        return Document(f"{answer} {ctypes.get_errno()}")
    elif order == "endless":
        while True:
            os.write(6, b"x" * 65536)
    elif order == "endless stderr":
        while True:
            os.write(2, b"x" * 65536)
    elif order == "allowance":
        return Document(f"{allowance.passwords} {allowance.bytes_left} {allowance.reader}")
    elif order == "environment":
        return Document(repr((sorted(os.environ), os.getcwd(), os.listdir(), os.getpid())))
    elif order == "long":
        return Document("x" * 5000)
    elif order == "spans":
        return Document("short", sections=(Span(0, 900, "out"),))
    elif order == "refuse":
        raise DocumentRejected("No.", reason="damaged", do="Try.")
    return Document(order)

main(sys.argv[1:], parse)
"""
COMMAND = [sys.executable, "-I", "-B", "-X", "utf8", "-c", FAKE, ROOT]


def fake_pool(timeout_s: float = 30.0, memory_mib: int = 256) -> ParserPool:
    return ParserPool(
        timeout_s=timeout_s, memory_mib=memory_mib, max_output_chars=4000, command=COMMAND
    )


def order(pool: ParserPool, what: str) -> DocumentRejected:
    with pytest.raises(DocumentRejected) as caught:
        pool.parse(what.encode(), "a.txt")
    assert "\n" not in str(caught.value)
    assert pool.parse(b"next", "b.txt").text == "next"
    return caught.value


@pytest.fixture(scope="module")
def fakes() -> Iterator[ParserPool]:
    with fake_pool() as pool:
        yield pool


def test_a_document_comes_through_whole() -> None:
    markdown = "# 题目\n\n正文 😀\n\n## 二\n\nend\n"
    with ParserPool() as pool:
        document = pool.parse(markdown.encode("utf-16"), "a.md")
        assert document.text == markdown
        assert document.title == "题目"
        assert [span.label for span in document.sections] == ["题目", "题目 > 二"]
        assert document.media_type == "text/markdown"
        with pytest.raises(DocumentRejected) as caught:
            pool.parse(b"\x89PNG\r\n\x1a\n", "\udcff.pdf")
        assert caught.value.reason == "unsupported"


def test_nothing_starts_before_the_first_file_and_close_can_be_repeated() -> None:
    pool = ParserPool(command=["/nonexistent"])
    pool.close()
    pool.close()
    with pytest.raises(DocumentRejected, match="did not start"):
        pool.parse(b"x", "a.txt")
    silent = ParserPool(command=[sys.executable, "-c", "raise SystemExit('no module')"])
    with silent, pytest.raises(DocumentRejected, match="did not start: no module"):
        silent.parse(b"x", "a.txt")


def test_a_parser_that_hangs_is_stopped() -> None:
    with fake_pool(timeout_s=1.0) as pool:
        assert pool.parse(b"warm", "a.txt").text == "warm"
        error = order(pool, "sleep")
    assert error.reason == "limit"
    assert "took longer than 1 s" in str(error)


@linux
def test_a_parser_that_wants_ten_gibibytes_is_stopped(fakes: ParserPool) -> None:
    error = order(fakes, "memory")
    assert error.reason == "limit"
    assert "memory" in str(error)


@posix
def test_a_crash_concerns_one_file_only(fakes: ParserPool) -> None:
    error = order(fakes, "crash")
    assert error.reason == "damaged"
    assert "SIGSEGV" in str(error)
    assert "exit code 3" in str(order(fakes, "exit"))


def test_a_process_that_died_between_files_costs_no_file() -> None:
    with fake_pool() as pool:
        _, _, _, worker = eval(pool.parse(b"environment", "a.txt").text)
        os.kill(worker, signal.SIGTERM)
        assert pool.parse(b"next", "b.txt").text == "next"


def test_endless_recursion_is_a_limit(fakes: ParserPool) -> None:
    assert order(fakes, "deep").reason == "limit"


def test_what_libraries_print_does_not_reach_the_protocol(fakes: ParserPool) -> None:
    assert fakes.parse(b"print", "a.txt").text == "print"
    assert fakes.parse(b"again", "a.txt").text == "again"


def test_too_much_text_is_a_limit(fakes: ParserPool) -> None:
    assert "5,000 characters; the limit is 4,000" in str(order(fakes, "long"))


def test_a_refusal_keeps_its_words(fakes: ParserPool) -> None:
    error = order(fakes, "refuse")
    assert (error.message, error.do, error.reason) == ("No.", "Try.", "damaged")


def test_offsets_outside_the_text_are_not_believed(fakes: ParserPool) -> None:
    assert "nonsense" in str(order(fakes, "spans"))


@posix
def test_the_worker_cannot_write_files(fakes: ParserPool) -> None:
    assert fakes.parse(b"write", "a.txt").text.startswith("refused")


@posix
def test_the_worker_sees_no_environment_and_an_empty_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    with fake_pool() as pool:
        names, folder, listing, _ = eval(pool.parse(b"environment", "a.txt").text)
    assert "SECRET_TOKEN" not in names
    assert listing == []
    assert not Path(folder).exists()


def test_the_worker_opens_no_sockets() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server, fake_pool() as pool:
        port = server.getsockname()[1]
        assert pool.parse(b"network", f"{port}.txt").text == "no sockets"


@linux
def test_native_code_opens_no_sockets_and_starts_no_programs(fakes: ParserPool) -> None:
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("the filter of system calls is for x86-64 and aarch64")
    refused = f"-1 {errno.EPERM}"
    assert fakes.parse(b"native network", "a.txt").text == refused
    assert fakes.parse(b"program", "a.txt").text == refused


@linux
@pytest.mark.parametrize("what", ["endless", "endless stderr"])
def test_a_parser_that_writes_without_end_is_replaced(what: str) -> None:
    with fake_pool(timeout_s=2.0) as pool:
        error = order(pool, what)
    assert error.reason in ("limit", "damaged")


def test_passwords_and_limits_reach_the_parser_and_no_command_line() -> None:
    with ParserPool(command=COMMAND, passwords=["geheim 密"], unpacked_mib=3) as pool:
        text = pool.parse(b"allowance", "a.txt").text
        assert text == f"('geheim 密',) {3 << 20} None"
        _, _, _, worker = eval(pool.parse(b"environment", "a.txt").text)
        if sys.platform.startswith("linux"):
            assert b"geheim" not in Path(f"/proc/{worker}/cmdline").read_bytes()


@posix
def test_folders_of_killed_parents_are_swept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    living = WorkerFolder()
    orphan, young, other = (tmp_path / name for name in ("youju-parse-a", "youju-parse-b", "x"))
    for folder in (orphan, young, other):
        folder.mkdir()
        (folder / "file").write_text("x")
    (tmp_path / "youju-parse-link").symlink_to(other, target_is_directory=True)
    for old in (orphan, other, Path(living.path or "")):
        os.utime(old, (1, 1))
    assert sweep() == 1
    assert not orphan.exists()
    assert young.exists()
    assert (other / "file").exists()
    assert living.path is not None
    assert Path(living.path).exists()
    living.remove()
    assert not list(tmp_path.glob("youju-parse-?????*/"))[1:]


def test_threads_share_a_pool() -> None:
    texts: list[str] = []
    with ParserPool(workers=2) as pool:

        def work(number: int) -> None:
            texts.extend(pool.parse(f"text {number} {i}".encode(), "a.txt").text for i in range(20))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(texts) == sorted(f"text {n} {i}" for n in range(4) for i in range(20))


PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
from ingest.fence import ParserPool
pool = ParserPool(command=sys.argv[3:], timeout_s=60)
print(pool.parse(b"environment", "a.txt").text, flush=True)
pool.parse(sys.argv[2].encode(), "a.txt")
"""


@posix
@pytest.mark.parametrize("busy", ["sleep", "spin"])
def test_the_worker_dies_with_a_killed_parent(busy: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, ROOT, busy, *COMMAND], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    _, folder, _, worker = eval(parent.stdout.readline())
    os.kill(worker, 0)
    folder = Path(folder)
    assert folder.is_dir()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _runs(worker):
        time.sleep(0.02)
    assert not _runs(worker)
    assert not folder.exists()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    "change",
    [
        {"reason": "made up", "message": "x", "do": ""},
        {"media_type": "application/x-evil"},
        {"title": 3},
        {"pages": [{"start": 2, "end": 1, "label": "1"}]},
        {"pages": [{"start": 0, "end": 9, "label": "1"}]},
        {"pages": [{"start": 1.5, "end": 2, "label": "1"}]},
        {"sections": [{"start": 1, "end": 2, "label": "b"}, {"start": 0, "end": 1, "label": "a"}]},
        {"sections": {}, "warnings": None},
    ],
)
def test_malformed_answers_are_errors(change: dict[str, object]) -> None:
    answer = {"media_type": "text/plain", "title": "t", "pages": [], "sections": [], "warnings": []}
    assert _document(answer, b"text", 10) == Document("text", "t")
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        _document(answer | change, b"text", 10)


def test_arguments_are_checked() -> None:
    for workers, timeout_s, memory_mib, chars in ((0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1)):
        with pytest.raises(ValueError, match="positive"):
            ParserPool(
                workers=workers, timeout_s=timeout_s, memory_mib=memory_mib, max_output_chars=chars
            )


def test_an_answer_nested_without_end_is_not_believed() -> None:
    worker = (
        "import os, struct\n"
        "def say(text): os.write(1, struct.pack('>IQ', len(text), 0) + text)\n"
        "say(b'{\"ready\": true}')\n"
        "os.read(0, 1)\n"
        "say(b'[' * 60_000)\n"
    )
    with ParserPool(command=[sys.executable, "-c", worker]) as pool:
        with pytest.raises(DocumentRejected, match="crashed"):
            pool.parse(b"x", "a.txt")

"""Files and uploads through the official client, whose types every answer must have."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filled import POLL_MS, upload
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from openai import BadRequestError, ConflictError, NotFoundError, OpenAI
from openai.types.file_create_params import ExpiresAfter
from served import Served, serving
from sqlalchemy import update

from api.errors import ApiError
from api.names import checked_name
from ingest.job import ingest_paths
from rag.build import build_rag
from rag.config import Settings
from rag.store.database import Database
from rag.store.service_tables import FileRow
from rag.store.uploads import Uploads, UploadState

DAY = 86_400


@pytest.fixture
def client(served: Served) -> OpenAI:
    return served.client()


def test_a_file_is_created_looked_at_downloaded_and_deleted(client: OpenAI) -> None:
    data = b"# Pump\n\nIt weighs 185 kg.\n"
    before = int(time.time())
    file = client.files.create(file=("pump.md", data), purpose="user_data")
    assert (file.filename, file.bytes, file.purpose) == ("pump.md", len(data), "user_data")
    assert (file.status, file.expires_at) == ("processed", None)
    assert before <= file.created_at <= time.time()
    assert file.model_extra == {"sha256": hashlib.sha256(data).hexdigest()}
    assert client.files.retrieve(file.id) == file
    assert client.files.wait_for_processing(file.id) == file
    assert client.files.content(file.id).read() == data
    gone = client.files.delete(file.id)
    assert (gone.id, gone.deleted) == (file.id, True)
    for again in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(NotFoundError) as caught:
            again(file.id)
        assert (caught.value.code, caught.value.param) == ("file_not_found", "id")


def test_a_path_and_an_open_file_can_be_given(client: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_bytes(b"From a path.")
    assert client.files.create(file=path, purpose="assistants").filename == "note.txt"
    with path.open("rb") as handle:
        file = client.files.create(file=handle, purpose="assistants")
    assert client.files.content(file.id).read() == b"From a path."


def test_lists_come_in_pages_by_age_and_purpose(client: OpenAI) -> None:
    first = upload(client, "marker.txt", "first")
    made = [first, *(upload(client, f"{number}.txt", str(number)) for number in range(4))]
    other = client.files.create(file=("u.txt", b"u"), purpose="user_data").id
    upwards = [file.id for file in client.files.list(order="asc", after=first, limit=2)]
    assert upwards == [*made[1:], other]
    page = client.files.list(order="asc", after=first, limit=2)
    assert page.has_more
    assert [file.id for file in page.data] == made[1:3]
    assert [file.id for file in client.files.list(limit=1).data] == [other]
    newest = client.files.list(purpose="assistants", limit=3)
    assert [file.id for file in newest.data] == made[:1:-1]
    assert all(file.purpose == "user_data" for file in client.files.list(purpose="user_data"))
    assert other in {file.id for file in client.files.list(purpose="user_data")}
    with pytest.raises(BadRequestError) as caught:
        client.files.list(after="file-nowhere").data  # noqa: B018
    assert caught.value.code == "invalid_cursor"


def test_a_file_expires(served: Served, client: OpenAI) -> None:
    expiry = ExpiresAfter(anchor="created_at", seconds=DAY)
    file = client.files.create(file=("a.txt", b"a"), purpose="assistants", expires_after=expiry)
    assert file.expires_at == file.created_at + DAY
    db = Database(served.database)
    with db.write() as session:  # a day later
        session.execute(update(FileRow).where(FileRow.id == file.id).values(expires_at=1))
    db.close()
    with pytest.raises(NotFoundError):
        client.files.retrieve(file.id)
    assert file.id not in {listed.id for listed in client.files.list()}
    for seconds in (3599, 2_592_001):
        with pytest.raises(BadRequestError, match="expires_after"):
            client.files.create(
                file=("a.txt", b"a"),
                purpose="assistants",
                expires_after=ExpiresAfter(anchor="created_at", seconds=seconds),
            )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("手册 第2版.md", "手册 第2版.md"),
        ("Überblick – naïve 😀.txt", "Überblick – naïve 😀.txt"),
        ("../../etc/passwd.txt", "passwd.txt"),
        ("C:\\Users\\me\\plan.txt", "plan.txt"),
        ('say "hi".txt', "say %22hi%22.txt"),  # as clients write quotes in forms
        ("a;b=c.txt", "a;b=c.txt"),
        ("100%25.txt", "100%25.txt"),
        ("line\u2028break\u202e.txt", "line\\u2028break\\u202e.txt"),
    ],
)
def test_names_are_kept_as_far_as_they_are_harmless(client: OpenAI, given: str, kept: str) -> None:
    file = client.files.create(file=(given, b"text"), purpose="assistants")
    assert file.filename == kept
    assert client.files.retrieve(file.id).filename == kept
    content = client.files.with_raw_response.content(file.id)
    assert content.content == b"text"
    assert "\n" not in content.headers["content-disposition"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (b"filename=\"=?utf-8?B?5ZCI5ZCM?=\"; filename*=utf-8''%E5%90%88%E5%90%8C.md", "合同.md"),
        (b"filename*=UTF-8'zh'%E5%90%88%E5%90%8C.md", "合同.md"),
        (b"filename*=UTF-8''..%2F..%2Fa%0D%0Ab.md", "a\\u000d\\u000ab.md"),
        (b"filename=\"plan.md\"; filename*=UTF-8''other.md", "plan.md"),
        ('filename="合同.md"'.encode("gb18030"), "合同.md"),
        (b'filename="\xff\xfe.md"', "\ufffd\ufffd.md"),
    ],
)
def test_names_as_other_clients_write_them(served: Served, given: bytes, kept: str) -> None:
    body = b'--X\r\nContent-Disposition: form-data; name="file"; %b\r\n\r\ntext\r\n' % given
    body += b'--X\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n--X--\r\n'
    with served.http() as http:
        headers = {"content-type": "multipart/form-data; boundary=X"}
        made = http.post("/v1/files", content=body, headers=headers).json()
    assert made["filename"] == kept


@hypothesis_settings(max_examples=200)
@given(st.text(min_size=1, max_size=40))
def test_no_name_leads_out_of_a_folder_or_hides_characters(name: str) -> None:
    try:
        kept, kind = checked_name(f"{name}.txt")
    except ApiError:  # nothing was left before the suffix
        assert name.endswith(("/", "\\")) or not name.strip().strip("\0").strip(".")
        return
    assert kind == "text/plain"
    assert "/" not in kept
    assert kept.isprintable()
    assert kept.strip() == kept
    assert Path(kept).name == kept


@pytest.mark.parametrize("name", ["song.mp3", "noending", "x" * 252 + ".txt"])
def test_other_names_are_refused(client: OpenAI, name: str) -> None:
    from openai import APIStatusError

    with pytest.raises(APIStatusError) as caught:
        client.files.create(file=(name, b"x"), purpose="assistants")
    expected = (400, "invalid_filename") if len(name) > 200 else (415, "unsupported_file_type")
    assert (caught.value.status_code, caught.value.code) == expected


def test_other_purposes_are_refused(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="purpose: got 'batch', expected one of assistants"):
        client.files.create(file=("a.txt", b"a"), purpose="batch")


def test_the_same_bytes_twice_are_two_files_and_one_blob(served: Served, client: OpenAI) -> None:
    data = b"The same bytes, uploaded twice."
    first, second = (upload(client, name, data) for name in ("one.txt", "two.txt"))
    assert first != second
    digest = hashlib.sha256(data).hexdigest()
    kept = [path for path in served.home.rglob("*") if path.name == digest]
    assert len(kept) == 1
    client.files.delete(first)
    assert client.files.content(second).read() == data
    client.files.delete(second)
    assert not kept[0].exists()


def test_a_file_of_the_command_line_is_there_without_its_bytes(
    served_home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "handbook"
    folder.mkdir()
    (folder / "leave.md").write_text("# Leave\n\nEveryone has 30 days of annual leave.\n")
    rag = build_rag(Settings(home=served_home))
    ingest_paths(rag, "handbook", [folder])
    rag.db.close()
    with serving(served_home) as running:
        client = running.client()
        (file,) = client.files.list().data
        assert file.filename == "leave.md"
        with pytest.raises(NotFoundError) as caught:
            client.files.content(file.id)
        assert caught.value.code == "content_not_kept"
        answer = client.responses.create(
            model="youju:handbook", input="How many days of annual leave do I have?"
        )
        assert "30 days" in answer.output_text
        (store,) = client.vector_stores.list().data
        assert (store.name, store.file_counts.completed) == ("handbook", 1)
        client.files.delete(file.id)
        found = client.vector_stores.search(store.id, query="annual leave")
        assert found.data == []


# -- uploads -----------------------------------------------------------------------------------


def test_parts_are_joined_in_the_order_given(client: OpenAI) -> None:
    pieces = [b"one, ", b"two, ", "三。".encode()]
    whole = b"".join(pieces)
    upload_ = client.uploads.create(
        bytes=len(whole), filename="counted.txt", mime_type="text/plain", purpose="assistants"
    )
    assert (upload_.status, upload_.file) == ("pending", None)
    assert upload_.expires_at == upload_.created_at + 3600
    parts = {
        number: client.uploads.parts.create(upload_.id, data=pieces[number]).id
        for number in (2, 0, 1)
    }
    done = client.uploads.complete(
        upload_.id,
        part_ids=[parts[0], parts[1], parts[2]],
        md5=hashlib.md5(whole, usedforsecurity=False).hexdigest(),
    )
    assert done.status == "completed"
    assert done.file is not None
    assert client.files.content(done.file.id).read() == whole
    assert client.files.retrieve(done.file.id).filename == "counted.txt"
    with pytest.raises(ConflictError) as caught:
        client.uploads.parts.create(upload_.id, data=b"more")
    assert caught.value.code == "upload_not_pending"


def test_the_clients_own_chunked_upload_works(client: OpenAI) -> None:
    data = "An upload in parts. 分块上传。".encode() * 400
    done = client.uploads.upload_file_chunked(
        file=data,
        filename="chunked.txt",
        bytes=len(data),
        mime_type="text/plain",
        purpose="assistants",
        part_size=4096,
    )
    assert done.file is not None
    assert client.files.content(done.file.id).read() == data
    store = client.vector_stores.create(name="chunked")
    listed = client.vector_stores.files.create_and_poll(
        done.file.id, vector_store_id=store.id, poll_interval_ms=POLL_MS
    )
    assert listed.status == "completed"


def test_what_is_wrong_with_an_upload_is_told(client: OpenAI) -> None:
    def begin(size: int) -> str:
        return client.uploads.create(
            bytes=size, filename="a.txt", mime_type="text/plain", purpose="assistants"
        ).id

    upload_ = begin(6)
    first = client.uploads.parts.create(upload_, data=b"abc").id
    with pytest.raises(BadRequestError, match="have 3 bytes; 6 were announced"):
        client.uploads.complete(upload_, part_ids=[first])
    with pytest.raises(BadRequestError, match="the parts would have 7 bytes; 6 were announced"):
        client.uploads.parts.create(upload_, data=b"defg")
    second = client.uploads.parts.create(upload_, data=io.BytesIO(b"def")).id
    with pytest.raises(BadRequestError, match="given twice or is not of this upload"):
        client.uploads.complete(upload_, part_ids=[first, first])
    with pytest.raises(BadRequestError, match="another digest"):
        client.uploads.complete(upload_, part_ids=[first, second], md5="0" * 32)
    assert client.uploads.complete(upload_, part_ids=[first, second]).status == "completed"


def test_an_upload_is_cancelled(client: OpenAI) -> None:
    upload_ = client.uploads.create(
        bytes=3, filename="a.txt", mime_type="text/plain", purpose="user_data"
    )
    part = client.uploads.parts.create(upload_.id, data=b"abc")
    assert client.uploads.cancel(upload_.id).status == "cancelled"
    with pytest.raises(ConflictError):
        client.uploads.complete(upload_.id, part_ids=[part.id])
    with pytest.raises(ConflictError):
        client.uploads.cancel(upload_.id)
    with pytest.raises(NotFoundError):
        client.uploads.cancel("upload_nowhere")


@pytest.mark.parametrize("what", ["complete", "cancel", "add_part"])
def test_an_upload_that_another_request_ends_first_takes_nothing_more(
    client: OpenAI, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    upload_ = client.uploads.create(
        bytes=3, filename="a.txt", mime_type="text/plain", purpose="user_data"
    )
    part = client.uploads.parts.create(upload_.id, data=b"abc")
    method, complete = getattr(Uploads, what), Uploads.complete

    def too_late(self: Uploads, state: UploadState, *given: Any) -> Any:
        complete(self, state, [part.id], None)
        return method(self, state, *given)

    monkeypatch.setattr(Uploads, what, too_late)
    ask: dict[str, Callable[[], object]] = {
        "complete": lambda: client.uploads.complete(upload_.id, part_ids=[part.id]),
        "cancel": lambda: client.uploads.cancel(upload_.id),
        "add_part": lambda: client.uploads.parts.create(upload_.id, data=b"d"),
    }
    with pytest.raises(ConflictError) as caught:
        ask[what]()
    assert caught.value.code == "upload_not_pending"

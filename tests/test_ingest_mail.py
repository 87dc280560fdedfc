"""Mails, Outlook messages, saved web pages and books."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from containers import book, labels, mail, read, refusal, zipped
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.from_msg import unpack_rtf
from rag.errors import DocumentRejected


def test_a_mail_is_its_headers_body_and_attachments() -> None:
    letter = mail("Urlaub 年假 ✈", "Twelve days.", rules_md=b"# Rules\n\nAsk first.\n", x_exe=b"MZ")
    document = read(letter.as_bytes(), "a.eml")
    assert document.text.startswith(
        "From: Ann <ann@example.org>\nTo: bob@example.org\n"
        "Date: Tue, 01 Oct 2024 12:34:56 +0000\nSubject: Urlaub 年假 ✈\n\nTwelve days.\n\n# Rules"
    )
    assert document.title == "Urlaub 年假 ✈"
    assert labels(document) == ["rules.md > Rules"]
    assert document.warnings == ("x.exe: Format not supported; supported: "
                                 + document.warnings[0].split("supported: ")[1],)  # fmt: skip


def test_the_plain_body_stands_for_html_that_says_the_same() -> None:
    same = "<p>The <b>leave</b> is twelve days a year.</p><script>alert(1)</script>"
    document = read(mail("s", "The leave is twelve days a year.", same).as_bytes(), "a.eml")
    assert document.text.count("twelve days") == 1


def test_html_that_says_something_else_is_read_as_well() -> None:
    html = "<h1>Leave</h1><p>The leave is twelve days a year.</p>"
    document = read(mail("s", "Please open this mail in a browser.", html).as_bytes(), "a.eml")
    assert "Please open" in document.text
    assert "twelve days" in document.text
    assert labels(document) == ["Leave"]
    alone = b"Subject: x\nContent-Type: text/html; charset=gb2312\n\n" + "<p>年假十二天</p>".encode(
        "gbk"
    )
    assert "年假十二天" in read(alone, "a.eml").text


def test_a_mail_inside_a_mail_is_a_member() -> None:
    outer = mail("outer", "See the attached mail.")
    outer.add_attachment(mail("inner", "Inner words."))
    document = read(outer.as_bytes(), "a.eml")
    assert "Inner words." in document.text
    assert labels(document) == ["inner.eml"]


def test_headers_that_lie_are_survived() -> None:
    raw = "Subject: =?x-unknown?B?!!!?= =?utf-8?q?gut?=\nFrom: \xe4\n".encode("latin-1")
    body = b"Content-Type: text/plain; charset=nonsense\nContent-Transfer-Encoding: base64\n\n%%%\n"
    document = read(raw + body, "a.eml")
    assert "gut" in document.text
    assert refusal(b"no header here\n", "a.eml").reason == "unsupported"
    assert refusal(b"\x00\x01\x02", "a.eml").reason == "unsupported"


def test_a_saved_web_page_is_its_html_part() -> None:
    page = (
        b"MIME-Version: 1.0\nSubject: Page\nContent-Type: multipart/related; boundary=B\n\n--B\n"
        b"Content-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n"
        b"<h1>Leave</h1><p>Twelve =E5=A4=A9.</p>\n--B\nContent-Type: image/png\n\nxx\n--B--\n"
    )
    document = read(page, "a.mhtml")
    assert document.text == "Leave\n\nTwelve 天."
    assert (document.title, labels(document)) == ("Leave", ["Leave"])
    assert refusal(b"Subject: x\n\ntext", "a.mht").reason == "unsupported"


def test_a_book_is_read_in_the_order_of_its_spine() -> None:
    chapters = {
        "two.xhtml": "<html><body><h1>Second</h1><p>B.</p><script>no()</script></body></html>",
        "one.xhtml": "<html><head><title/></head><body><h1>First</h1><p>A.</p></body></html>",
    }
    document = read(book(chapters), "x.epub")
    assert document.text == "Second\n\nB.\n\nFirst\n\nA."
    assert (document.title, labels(document)) == ("The Book", ["Second", "First"])
    assert document.pages == ()


def test_books_that_are_locked_or_no_books_are_refused() -> None:
    chapters = {"a.xhtml": "<p>A.</p>"}
    method = '<x xmlns="y"><EncryptionMethod Algorithm="{}"/></x>'
    aes = method.format("http://www.w3.org/2001/04/xmlenc#aes128-cbc")
    fonts = method.format("http://www.idpf.org/2008/embedding")
    assert refusal(book(chapters, {"META-INF/encryption.xml": aes}), "x.epub").reason == "encrypted"
    assert read(book(chapters, {"META-INF/encryption.xml": fonts}), "x.epub").text == "A."
    assert refusal(zipped({"a.txt": "A"}), "x.epub").reason == "unsupported"
    assert refusal(book(chapters)[:300], "x.epub").reason == "damaged"
    bomb = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9)
    )
    evil = zipped({"META-INF/container.xml": f"{bomb}]><a>&j;</a>"})
    assert refusal(evil, "x.epub").reason == "damaged"


def test_compressed_rtf_is_unpacked() -> None:
    packed = bytes.fromhex(
        "2d0000002b0000004c5a4675f1c5c7a703000a007263706731323542320a"
        "f32068656c090020627705b06c647d0a800fa0"
    )
    assert unpack_rtf(packed) == b"{\\rtf1\\ansi\\ansicpg1252\\pard hello world}\r\n"
    with pytest.raises(ValueError, match="RTF"):
        unpack_rtf(b"nothing")


def test_an_outlook_message_in_big5(shared_docs: Path) -> None:
    document = read((shared_docs / "testMSG_chinese.msg").read_bytes(), "a.msg")
    assert "MSG 格式測試" in document.title
    assert "恭喜 HQ 保全課 陳奎良" in document.text


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_mails_and_books_are_read_or_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["x.eml", "x.epub", "x.mht"]))
    letter = mail("s 年", "text", "<p>other words are here</p>", a_txt=b"A").as_bytes()
    whole = bytearray(book({"a.xhtml": "<h1>A</h1>"}) if kind == "x.epub" else letter)
    for _ in range(data.draw(st.integers(1, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DocumentRejected):
        read(bytes(whole), kind)

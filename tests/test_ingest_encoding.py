import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.encoding import decode, plain
from rag.errors import DocumentRejected

SIMPLIFIED = (
    "离心泵启动前应先打开进口阀门，排净泵内空气。",
    "员工请假三天以上，须由部门经理审批。",
    "本手册适用于公司生产的所有型号。",
    "压力表读数超过一点二兆帕时，立即停机检查。",
    "发票应在出差结束后十五天内提交财务部。",
    "客户来电请记录时间、姓名和问题。",
    "润滑油每运行两千小时更换一次。",
    "仓库温度保持在五到三十度之间。",
)
TRADITIONAL = (
    "設備保養週期為六個月，請聯絡當地的經銷商。",
    "開放時間為每日上午九點至下午五點。",
    "訪客進入廠區前必須登記並配戴安全帽。",
    "這份文件說明如何更換機械密封。",
    "報名費用包含教材與午餐，但不包含住宿。",
    "發現漏油時應立即關閉電源並通知主管。",
    "產品保固期為一年，自購買日起計算。",
    "會議紀錄請於三天內寄給所有參加者。",
)
LATIN = (
    "Die Prüfung der Anlage erfolgt jährlich, spätestens im März.",
    "L’été dernier, le café coûtait 2,50 € à Besançon.",
    "La señora preguntó: «¿Cuándo llegará el técnico?»",
    "Vår maskin går på låg växel när det är kallt.",
)
sentences = st.lists(st.sampled_from(SIMPLIFIED), min_size=1, max_size=4).map("\n".join)
hant = st.lists(st.sampled_from(TRADITIONAL), min_size=1, max_size=4).map("\n".join)
latin = st.lists(st.sampled_from(LATIN), min_size=1, max_size=4).map("\n".join)


@given(sentences, st.sampled_from(["utf-8", "utf-8-sig", "gb18030", "utf-16-le", "utf-16-be"]))
def test_simplified_chinese_comes_back(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)).text == text


@given(hant, st.sampled_from(["utf-8", "big5", "gb18030", "utf-16-le", "utf-16-be"]))
def test_traditional_chinese_comes_back(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)).text == text


@given(latin, st.sampled_from(["utf-8", "cp1252", "utf-16"]))
def test_western_text_comes_back(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)).text == text


@pytest.mark.parametrize(
    "text", ["目录", "员工手册", "产品说明", "型号 JL-220，功率 7.5 千瓦", "备注：无"]
)
def test_a_few_gb18030_characters_are_enough(text: str) -> None:
    assert decode(text.encode("gb18030")).text == text


def test_the_encoding_is_named() -> None:
    assert decode(SIMPLIFIED[0].encode("gbk")).encoding == "gb18030"
    assert decode(TRADITIONAL[0].encode("big5")).encoding == "big5hkscs"
    assert decode(b"plain").encoding == "utf-8"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("これは日本語の文章です。今日は天気がいいですね。", "shift_jis"),
        ("これは日本語の文章です。今日は天気がいいですね。", "euc_jp"),
        ("안녕하세요 오늘은 날씨가 좋습니다 우리는 공원에 갑니다", "euc_kr"),
        ("Насос следует проверять каждый месяц, а масло менять раз в год.", "cp1251"),
    ],
)
def test_other_scripts_come_back(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)).text == text


@given(st.one_of(sentences, hant, latin), st.sampled_from(["utf-16-le", "utf-16-be", "utf-32-le"]))
def test_a_byte_order_mark_decides(text: str, encoding: str) -> None:
    marks = {
        "utf-16-le": codecs.BOM_UTF16_LE,
        "utf-16-be": codecs.BOM_UTF16_BE,
        "utf-32-le": codecs.BOM_UTF32_LE,
    }
    assert decode(marks[encoding] + text.encode(encoding)).text == text


@given(st.binary(max_size=400))
def test_any_bytes_give_clean_text_or_a_refusal(data: bytes) -> None:
    try:
        text = decode(data).text
    except DocumentRejected:
        return
    text.encode("utf-8")
    assert all(char in "\t\n" or not ("\0" <= char < " ") for char in text)


def test_binary_garbage_is_refused_and_says_what_was_seen() -> None:
    noise = bytes((index * 197 + index * index * 31) % 256 for index in range(4000))
    with pytest.raises(DocumentRejected, match=r"control characters|outside ASCII") as caught:
        decode(noise)
    assert caught.value.reason == "not-text"
    assert "\n" not in str(caught.value)


def test_text_of_no_clear_encoding_is_refused_rather_than_mangled() -> None:
    with pytest.raises(DocumentRejected):
        decode("Zażółć gęślą jaźń".encode("cp1250"))
    with pytest.raises(DocumentRejected):
        decode(b"\xff\xfeodd")


def test_a_torn_utf8_file_is_read_and_told() -> None:
    decoded = decode("\n".join(SIMPLIFIED * 3).encode()[:-1])
    assert decoded.encoding == "utf-8"
    assert decoded.text.endswith("\ufffd")
    assert decoded.warnings == ("1 unreadable byte sequence became �.",)


def test_line_ends_and_control_characters() -> None:
    assert decode(b"a\r\nb\rc\td\x00e\x07f").text == "a\nb\nc\td e f"
    assert decode("一\x1b[31m二\x0c三".encode()).text == "一 [31m二 三"
    assert plain("x\ud800y\uffff") == "x\ufffdy\ufffd"


@given(st.text(alphabet=st.characters(exclude_characters="\r")))
def test_plain_keeps_offsets_without_carriage_returns(text: str) -> None:
    assert len(plain(text)) == len(text)
    assert plain(plain(text)) == plain(text)


@pytest.mark.parametrize("declared", ["gb2312", "GBK", "gb18030"])
def test_html_charset_is_honoured(declared: str) -> None:
    page = f'<meta charset="{declared}"><p>泵</p>'
    assert decode(page.encode("gb18030"), html=True).text == page


def test_a_wrong_html_charset_is_not_believed() -> None:
    page = f'<meta charset="iso-8859-1"><p>{SIMPLIFIED[0]}</p>'
    assert decode(page.encode(), html=True).text == page
    assert decode(page.encode("gb18030"), html=True).text == page
    page = page.replace("iso-8859-1", "no-such-thing")
    assert decode(page.encode("gb18030"), html=True).text == page


def test_html_charset_of_an_alphabet_is_honoured() -> None:
    declared = '<meta http-equiv="Content-Type" content="text/html; charset=windows-1250">'
    page = f"<html>{declared}<p>Zażółć gęślą jaźń</p>"
    assert decode(page.encode("cp1250"), html=True).text == page

"""Bytes of a text file -> characters, or a refusal; mojibake is never let through.

It knows byte order marks, UTF-8, UTF-16, GB18030, Big5, Windows-1252 and, through
charset-normalizer, the encodings of other scripts. GB18030 and Big5 accept each other's bytes
almost always, so candidates are ranked by how ordinary the characters they yield are, not by
whether they decode. It knows nothing of formats beyond the charset an HTML file declares.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from rag.errors import DocumentRejected

_SAMPLE = 48_000
"""Bytes that are scored; the whole file is decoded strictly all the same."""

_MIN_SCORE = 0.5
_MIN_LEAD = 0.15

_FREQUENT = frozenset(
    # The most used characters of modern Chinese, simplified and traditional, and punctuation.
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过"
    "发后作里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前"
    "开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重"
    "并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常"
    "先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报"
    "才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼"
    "书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术"
    "领共确传师观清今切院让识候带导争运笔写单服每语号版组料项费速图准采单位联系员厂产证流约定备注检"
    "查修维护操作温压力电机油阀泵参数值规格型安全使用说明书合同客户供货价格库存订单请假报销审批部门"
    "收支额元角件套台米厘公斤吨度秒分钟小时周星期节假春夏秋冬早晚午夜男孩父母亲朋友爱乐快步车船飞票"
    "店买卖钱银城村镇省县街路江河湖岛园楼房屋室床桌椅灯火风雨雪云花草树木林鱼鸟狗猫牛羊猪食饭菜茶酒"
    "红黄蓝绿黑左右六七八九零百千亿半双首末远近轻深浅宽短新旧冷热干湿软硬贵便宜始终易简复般似乎虽若"
    "這個們來為國說時會對過發後裡經麼學沒動還進樣開從實軍無與長機關點業將兩間問應戰頭體見產斯話給門"
    "東聲員論處義幾認條氣題爾別變總電數報結務場計資許統區隊決馬書聽達難權設記張該規萬覺術領確傳師觀"
    "讓識帶導爭運筆寫單語號組項費圖準約備註檢維護壓閥參規說戶貨價庫訂請銷審買賣錢銀縣島園樓燈風雲樹"
    "魚鳥貓豬飯紅黃藍綠黑億雙遠輕淺寬舊熱乾濕軟貴簡復雖週鐘於並內級線連續據試驗裝置選擇輸網路檔案資"
    "料版權製造廠商服務處理標準範圍歐洲亞美語文究研術公司產品歷史世紀著名曾其它以及由於包括屬位於成為"
    "级线连续据试验装置选择输网路档案资料版权制造商范围欧洲亚究研历史纪曾包括属获得球团队赛奖剧影音曲"
    "乐词歌演戏台视播集届游击红原则形势根据状态按照推荐限公司董事股份有限银行账户税务发票编码型号"
    "，。、；：？！（）《》「」『』“”‘’…—·　％～－【】〈〉０１２３４５６７８９"
)
_LATIN_PUNCTUATION = frozenset("’‘“”„–—…•·€£¥©®™°§«»¿¡±×µ²³½¼¾\xa0†‰ªº")
_DASHES_AND_QUOTES = frozenset("’‘“”–—…«»·\xa0")
_LATIN_LETTERS = frozenset("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿŒœŠšŽžŸ")
_ALPHABETS = ("cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "koi8_r")
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_META = re.compile(
    rb"<(?:meta|\?xml)\b[^>]{0,300}?(?:charset|encoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.I
)
_WIDENED = {  # what files mean when they declare an older subset
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "cp936": "gb18030",
    "big5": "big5hkscs",
    "cp950": "big5hkscs",
    "iso8859-1": "cp1252",
    "latin-1": "cp1252",
    "ascii": "cp1252",
}
_CONTROLS = {code: " " for code in (*range(32), *range(0x7F, 0xA0)) if code not in (9, 10, 0x85)}
_CONTROLS[0x85] = "\n"
_CONTROLS.update({code: "\ufffd" for code in (*range(0xD800, 0xE000), 0xFFFE, 0xFFFF)})
_NOT_PLAIN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_C0 = re.compile(b"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_SAVE_AS = "Save it as UTF-8 text and try again."


@dataclass(frozen=True, slots=True)
class Decoded:
    r"""A text and how it was read.

    Attributes:
        text: No control characters but tab and newline, no lone surrogates, "\n" line ends.
        encoding: The Python codec's name, for example "gb18030".
        warnings: Plain sentences, for example that a few bytes were unreadable.
    """

    text: str
    encoding: str
    warnings: tuple[str, ...] = ()


def decode(data: bytes, *, html: bool = False) -> Decoded:
    r"""Decode a text or HTML file.

    Args:
        data: The whole file.
        html: Honour a declared charset (`<meta charset>`, XML declaration) that fits the bytes.

    Returns:
        The text: "\r\n" and "\r" become "\n", other control characters a space each.

    Raises:
        DocumentRejected: reason "not-text" when the bytes are not text, or when no encoding fits
            them clearly better than the others.
    """
    if not data:
        return Decoded("", "utf-8")
    for bom, name in _BOMS:
        if data.startswith(bom):
            return _with_bom(data[len(bom) :], name)
    controls = len(_C0.findall(data))
    if controls * 50 > len(data) and (utf16 := _utf16(data)) is not None:
        return utf16
    if controls * 10 > len(data) * 3:
        raise _refused(f"{controls} of its {len(data)} bytes are control characters")
    if (utf8 := _utf8(data)) is not None:
        return utf8
    if (utf16 := _utf16(data)) is not None:
        return utf16
    if controls * 100 > len(data):
        raise _refused(f"it is not UTF-8 and holds {controls} control characters")
    return _by_score(data, _declared(data) if html else None)


def plain(text: str) -> str:
    r"""Normalise line ends to "\n" and replace control characters and lone surrogates.

    Every other replacement is one character for one character.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.translate(_CONTROLS) if _NOT_PLAIN.search(text) else text


def chinese_score(text: str) -> float:
    """Say how ordinary the non-ASCII characters of a text are, as Chinese.

    Each counts 1 when it is among the most used ones, 0.25 when it is in the first level of
    GB 2312 or Big5, 0 when it is a rarer assigned ideograph or another script, -0.5 when it is
    outside both character sets, -1 when it is unassigned, private or a replacement character.

    Returns:
        The mean, in [-1, 1]: about 0.7 for real Chinese, below 0.4 for bytes read in the wrong
        encoding; 0 without any non-ASCII character.
    """
    counts: dict[str, int] = {}
    for char in text:
        if char >= "\x80":
            counts[char] = counts.get(char, 0) + 1
    total = sum(counts.values())
    if not total:
        return 0.0
    return sum(_weight(char) * count for char, count in counts.items()) / total


def _with_bom(body: bytes, name: str) -> Decoded:
    try:
        return Decoded(plain(body.decode(name)), name)
    except UnicodeDecodeError as error:
        if name == "utf-8" and (decoded := _utf8(body)) is not None:
            return decoded
        raise _refused(
            f"it begins like {name.upper()} text but byte {error.start} does not fit"
        ) from error


def _utf16(data: bytes) -> Decoded | None:
    """UTF-16 without a mark: nearly all of it ASCII or ordinary Chinese, read that way only."""
    head = data[:_SAMPLE]
    best: tuple[float, str] = (_MIN_SCORE, "")
    for name in ("utf-16-le", "utf-16-be"):
        sample = _try(head, name)
        if sample is None:
            continue
        ascii_chars = sum(" " <= char <= "~" or char in "\t\n\r" for char in sample)
        others = [char for char in sample if char >= "\x80"]
        score = (ascii_chars + chinese_score(sample) * len(others)) / len(sample)
        best = max(best, (score, name))
    text = _try(data, best[1]) if best[1] else None
    return None if text is None else Decoded(plain(text), best[1])


def _utf8(data: bytes) -> Decoded | None:
    """UTF-8; a torn last character or a stray byte in 100 others is replaced and told."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    else:
        return None if _chance_utf8(data, text) else Decoded(plain(text), "utf-8")
    text = data.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    good = sum(char >= "\x80" for char in text[:_SAMPLE]) - text[:_SAMPLE].count("\ufffd")
    whole = len(text) if len(text) > _SAMPLE else _SAMPLE
    if good >= 20 and bad * 100 <= good * whole / _SAMPLE:
        said = f"{bad} unreadable byte sequence{'s' if bad > 1 else ''} became �."
        return Decoded(plain(text), "utf-8", (said,))
    return None


def _chance_utf8(data: bytes, text: str) -> bool:
    """Whether a short GB18030 text only happens to be valid UTF-8 ("\u76ee\u5f55" does)."""
    others = [char for char in text[:_SAMPLE] if char >= "\x80"]
    if not 0 < len(others) <= 20 or max(others) > "\u07ff" or _latin_score(text) > 0:
        return False
    chinese = _try(data, "gb18030")
    return chinese is not None and chinese_score(chinese) >= _MIN_SCORE


def _declared(data: bytes) -> str | None:
    match = _META.search(data[:4096])
    if match is None:
        return None
    try:
        name = codecs.lookup(match.group(1).decode("ascii")).name
    except (LookupError, UnicodeDecodeError):
        return None
    return _WIDENED.get(name, name)


def _by_score(data: bytes, declared: str | None) -> Decoded:
    """Choose among the encodings that decode, by how ordinary the characters they yield are."""
    candidates: list[tuple[float, str, str]] = []
    for name in ("gb18030", "big5hkscs", "cp1252"):
        text = _try(data, name)
        if text is not None:
            sample = text[:_SAMPLE]
            score = _latin_score(sample) if name == "cp1252" else chinese_score(sample)
            candidates.append((score, name, text))
    candidates.sort(key=lambda item: (-item[0], item[1]))
    best = candidates[0][0] if candidates else 0.0
    second = candidates[1][0] if len(candidates) > 1 else -1.0
    sure = best >= _MIN_SCORE and best - max(second, 0.0) >= _MIN_LEAD
    if declared and (not sure or candidates[0][1] != declared):
        decoded = _as_declared(data, declared, best if sure else _MIN_SCORE)
        if decoded is not None:
            return decoded
    if sure:
        return Decoded(plain(candidates[0][2]), candidates[0][1])
    return _by_other_scripts(data, best)


def _as_declared(data: bytes, name: str, needed: float) -> Decoded | None:
    """The declared encoding, when it decodes and reads no worse than what the bytes suggest."""
    text = _try(data, name)
    if text is None:
        return None
    sample = text[:_SAMPLE]
    if name == "cp1252":
        fits = _latin_score(sample) >= needed - _MIN_LEAD
    elif name in ("gb18030", "big5hkscs"):
        fits = chinese_score(sample) >= needed - 2 * _MIN_LEAD
    else:
        fits = chinese_score(sample) > -0.5 and _letters(sample) >= 0.8
    return Decoded(plain(text), name) if fits else None


def _by_other_scripts(data: bytes, best: float) -> Decoded:
    """Japanese and Korean by their own letters; for alphabets ask charset-normalizer."""
    for name, first, last, share in (
        ("cp932", "\u3041", "\u30fc", 0.3),
        ("euc_jp", "\u3041", "\u30fc", 0.3),
        ("cp949", "\uac00", "\ud7a3", 0.85),
    ):
        text = _try(data, name)
        high = [char for char in (text or "")[:_SAMPLE] if char >= "\x80"]
        own = sum(first <= char <= last for char in high)
        if text is not None and own >= max(8, share * len(high)) and _letters(text) >= 0.95:
            return Decoded(plain(text), name)
    kanji = _try(data, "cp932")
    if best <= _MIN_LEAD and kanji is not None and chinese_score(kanji[:_SAMPLE]) >= _MIN_SCORE:
        return Decoded(plain(kanji), "cp932")  # names and places hold no kana
    return _by_alphabet(data)


def _by_alphabet(data: bytes) -> Decoded:
    """Believe charset-normalizer only where it also recognises the language."""
    from charset_normalizer import from_bytes

    sample = data if len(data) <= _SAMPLE else data[:_SAMPLE].rsplit(b"\n", 1)[0]
    match = from_bytes(sample, cp_isolation=list(_ALPHABETS)).best()
    if match is not None and match.chaos <= 0.08 and match.coherence >= 0.3:
        text = _try(data, match.encoding)
        if text is not None and _letters(text[:_SAMPLE]) >= 0.95:
            return Decoded(plain(text), match.encoding)
    seen = data[:_SAMPLE]
    high = sum(byte >= 0x80 for byte in seen)
    raise _refused(
        f"{high} of its first {len(seen)} bytes are outside ASCII and fit no encoding clearly "
        "(UTF-8, UTF-16, GB18030, Big5, Windows-1252 and others were tried)"
    )


def _try(data: bytes, name: str) -> str | None:
    if name.startswith("utf-16") and len(data) % 2:
        return None
    try:
        return data.decode(name)
    except (UnicodeDecodeError, LookupError):
        return None


def _weight(char: str) -> float:
    if char in _FREQUENT:
        return 1.0
    if char == "\ufffd" or "\ue000" <= char <= "\uf8ff" or "\x80" <= char <= "\x9f":
        return -1.0
    gb, big5 = _try_encode(char, "gb2312"), _try_encode(char, "big5")
    if 0xB0 <= gb <= 0xD7 or 0xA4 <= big5 <= 0xC6:
        return 0.25
    return 0.0 if gb or big5 else -0.5


def _try_encode(char: str, name: str) -> int:
    """Return the lead byte of a two-byte character, 0 where there is none."""
    try:
        coded = char.encode(name)
    except UnicodeEncodeError:
        return 0
    return coded[0] if len(coded) == 2 else 0


def _letters(text: str) -> float:
    """Return the share of non-ASCII characters that are letters or general punctuation."""
    high = [char for char in text if char >= "\x80"]
    good = sum(
        char.isalpha() or char in _LATIN_PUNCTUATION or "\u3000" <= char <= "\u303f"
        or "\uff00" <= char <= "\uffef"
        for char in high
    )  # fmt: skip
    return good / len(high) if high else 1.0


def _latin_score(text: str) -> float:
    """Return the mean over non-ASCII characters: 1 a letter inside a Latin word, -1 not.

    Western accented letters stand alone or in pairs among ASCII letters; longer runs of them are
    another encoding's bytes.
    """
    score = total = 0
    for match in re.finditer(r"[\x80-\U0010ffff]+", text):
        run = match.group()
        total += len(run)
        beside = (
            text[max(0, match.start() - 1) : match.start()] + text[match.end() : match.end() + 1]
        )
        in_word = any(char.isalpha() for char in beside)
        for char in run:
            if char in _DASHES_AND_QUOTES:
                score += 1 if len(run) <= 2 else -1
            elif char in _LATIN_PUNCTUATION:
                score += 1 if len(run) <= 2 and not (len(beside) == 2 and beside.isalpha()) else -1
            else:
                score += 1 if char in _LATIN_LETTERS and in_word and len(run) <= 2 else -1
    return score / total if total else 0.0


def _refused(seen: str) -> DocumentRejected:
    return DocumentRejected(f"Not readable as text: {seen}.", reason="not-text", do=_SAVE_AS)

"""Which of the served languages a text is in, and how long it is in that language's measure.

Chinese is measured in characters, everything else in words. This is no general language
identification: text in neither script counts as English.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

Language: TypeAlias = Literal["zh", "zh-Hant", "en"]

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HAN = re.compile(f"[{HAN}]")
_WORD = re.compile(rf"[^\W\d_{HAN}]{{2,}}")

# Frequent characters that only one of the two scripts writes.
_TRADITIONAL = frozenset(
    "們個這來時對說會為學國後過開關問經點實現發電機車長門間東樂書氣處無與從當還進動樣業應該麼"
    "沒讓請誰給幾種樣號碼價錢買賣員級備裝檢測試運轉換壓溫設維護險規則條約產質體聯絡歲"
    "廠區層樓據證單張報費補導師課題離節線圖紙軟盤鐘內並將於僅雙舊類輸題緊臺灣歷與傳統達選"
)
_SIMPLIFIED = frozenset(
    "们个这来时对说会为学国后过开关问经点实现发电机车长门间东乐书气处无与从当还进动样业应该么"
    "没让请谁给几种样号码价钱买卖员级备装检测试运转换压温设维护险规则条约产质体联络岁"
    "厂区层楼据证单张报费补导师课题离节线图纸软盘钟内并将于仅双旧类输题紧台湾历与传统达选"
)
_ONLY_TRADITIONAL = _TRADITIONAL - _SIMPLIFIED
_ONLY_SIMPLIFIED = _SIMPLIFIED - _TRADITIONAL


def is_chinese(text: str) -> bool:
    """Whether a text is to be read, and measured, as Chinese.

    True if it has at least one Chinese character for every two words of another script; product
    codes do not count as words.
    """
    han = len(_HAN.findall(text))
    return han > 0 and 2 * han >= len(_WORD.findall(text))


def question_language(text: str) -> Language:
    """Tell the language in which a question wants its answer.

    Args:
        text: Any string.

    Returns:
        "zh-Hant" if more characters are written the Traditional way than the Simplified way,
        else "zh" if the text is Chinese, else "en".
    """
    if not is_chinese(text):
        return "en"
    traditional = sum(char in _ONLY_TRADITIONAL for char in text)
    simplified = sum(char in _ONLY_SIMPLIFIED for char in text)
    return "zh-Hant" if traditional > simplified else "zh"


def text_length(text: str) -> int:
    """Length in the text's own measure: characters if it is Chinese, else words."""
    return len(text) if is_chinese(text) else len(text.split())

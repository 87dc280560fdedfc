"""What a question asks: its telling terms, the words next to the question word, the kind wanted.

Pure text analysis for the extractive answerer and the refusal score; it searches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from rag.index.analyze import QUESTION_WORDS, Analyzer
from rag.language import Language, question_language

Kind: TypeAlias = Literal["number", "date", "person", "place", "reason"]

MAX_QUESTION_CHARS = 2_000
"""Only so much of a question is analysed; what follows cannot change the answer."""

_ASKING_ZH = re.compile(
    r"为什么|為什麼|为何|為何|什么样|什麼樣|什么|什麼|甚麼|多少|哪[个個些里裡儿兒位家种種]|哪一?"
    r"|谁|誰|何[时時人处處种種地年者物]|如何|有何|第[几幾]"
    r"|[几幾](?=[个個位名次年月日天岁歲人种種点點条條台臺级級层層份分])"
    r"|怎[么麼样樣]|是否|请问|請問|多[久大高长長远遠重快]|[吗嗎呢]"
)
_MEASURE_EN = re.compile(
    r"\bhow (?:many|much|long|old|far|large|big|tall|high|often|fast|heavy|deep|soon|wide)\b",
    re.IGNORECASE,
)
_ASKING_EN = re.compile(r"\b(?:what|which|who|whom|whose|when|where|why|how)\b", re.IGNORECASE)

_KINDS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("person", re.compile(r"\bwho(?:m|se)?\b|谁|誰|何人|哪一?[位名]|哪个人|哪個人", re.IGNORECASE)),
    (
        "date",
        re.compile(
            r"\bwhen\b|\b(?:what|which) (?:year|date|day|month|century|decade|time)|\bdeadline\b"
            r"|何[时時年]|什[么麼]时候|什麼時候|哪一?年|[几幾]月|年份|哪一?天|日期|[时時]间|時間"
            r"|多久|[几幾]年|[几幾]天|哪[个個]?世[纪紀]|期限",
            re.IGNORECASE,
        ),
    ),
    (
        "number",
        re.compile(
            r"\bhow (?:many|much|long|old|far|large|big|tall|high|often|fast|heavy|deep)\b"
            r"|\bpercent|\b(?:what|which) (?:number|amount|price|size|temperature|pressure)\b"
            r"|多[少大高长長远遠重快]|[几幾](?!内|何)|比例|百分",
            re.IGNORECASE,
        ),
    ),
    (
        "place",
        re.compile(
            r"\bwhere\b|\b(?:what|which) (?:country|city|state|place|region|area|county|town)\b"
            r"|哪[里裡儿兒]|何[处處地]|什[么麼]地方|哪一?[个個]?(?:国家|國家|城市|地方|省|地[区區])"
            r"|位[于於]",
            re.IGNORECASE,
        ),
    ),
    ("reason", re.compile(r"\bwhy\b|为什么|為什麼|为何|為何|原因", re.IGNORECASE)),
)

_FUNCTION_WORDS = frozenset(
    "的 了 是 在 和 与 或 有 被 由 于 为 以 及 其 这 那 该 此 之 而 也 都 就 要 会 能 到 对 从 个 "
    "位 名 种 年 我 我们 你 您 它 他 她 们 吧 啊 呀 把 给 让 请 做 叫 时 时候 多 第 里 来 去 还 最 "
    "才 不 的话 自己 打算 一个 一下 可以 需要 应该 那次 这次 "
    "can could would should may might shall must after before between during about over than more "
    "most also any some all one onc name i my me we our you your he she his her him us am being "
    "get got s t m don doesn so toward under until up out am keep".split()
)
_CODE = re.compile(r"(?=.*[0-9])(?=.*[a-z])[0-9a-z]+")
_CLAUSE_ZH = re.compile(r"[^，,。！!？?；;\n]+")
_CLAUSE_EN = re.compile(r"(?:[^.!?\n]|\.(?=\S))+")

CODE_WEIGHT = 2.0
"""A product or error code says more of the topic than a word as rare."""

BACKGROUND_WEIGHT = 0.5
"""Of the terms outside the sentence, in Chinese the clause, that holds the question word."""


@dataclass(frozen=True, slots=True)
class Question:
    """An analysed question.

    Attributes:
        text: As asked.
        language: In which to answer.
        words: Its telling terms, each once; function and question words left out unless it
            has no others, and of a code ("JL-220") only the whole.
        weights: Of each of `words`, > 0: above 1 for codes, below 1 for background.
        grams: Its pairs of Chinese characters, question words left out.
        pairs: Neighbouring terms, function words included.
        focus: Those of `words` that stand next to the question word ("how many POINTS").
        codes: Those of `words` that mix letters and digits, as products and errors are named.
        kinds: What the answer looks like, where the question says so.
    """

    text: str
    language: Language
    words: tuple[str, ...]
    weights: tuple[float, ...]
    grams: frozenset[str]
    pairs: frozenset[tuple[str, str]]
    focus: frozenset[str]
    codes: frozenset[str]
    kinds: frozenset[Kind]


def analyze_question(text: str, analyzer: Analyzer) -> Question:
    """Analyse a question.

    Args:
        text: Any string; only its first MAX_QUESTION_CHARS characters are read.
        analyzer: The same that the lexical index uses.

    Returns:
        The analysis; `words` is empty only if the text holds no letters and digits.
    """
    read = text[:MAX_QUESTION_CHARS]
    content = _without_asking(read)
    terms = analyzer.query(content)
    words = tuple(_whole_codes(telling(terms.words) or terms.words))
    asking = set(analyzer.query(_asking_part(read)).words)
    near = set(analyzer.query(_near_question_word(read)).words)
    return Question(
        text=text,
        language=question_language(read),
        words=words,
        weights=tuple(
            (CODE_WEIGHT if _CODE.fullmatch(word) else 1.0)
            * (1.0 if word in asking else BACKGROUND_WEIGHT)
            for word in words
        ),
        grams=frozenset(gram for gram in terms.grams if len(gram) == 2),
        pairs=word_pairs(analyzer.passage(content).words),
        focus=frozenset(word for word in words if word in near),
        codes=frozenset(filter(_CODE.fullmatch, words)),
        kinds=frozenset(kind for kind, pattern in _KINDS if pattern.search(read)),
    )


def _whole_codes(words: Sequence[str]) -> list[str]:
    """Leave out the parts of codes: "jl" and "220" where there is "jl220"."""
    codes = [word for word in words if _CODE.fullmatch(word) or word.isdigit()]
    return [
        word
        for word in words
        if not any(
            len(code) > len(word) and (code.startswith(word) or code.endswith(word))
            for code in codes
        )
    ]


def _asking_part(text: str) -> str:
    """The last sentence, in Chinese clause, with a question word; the whole text if none has."""
    chinese = question_language(text) != "en"
    word, clause = (_ASKING_ZH, _CLAUSE_ZH) if chinese else (_ASKING_EN, _CLAUSE_EN)
    asking = [match[0] for match in clause.finditer(text) if word.search(match[0])]
    return _without_asking(asking[-1] if asking else text)


def _without_asking(text: str) -> str:
    return _MEASURE_EN.sub(" ", _ASKING_ZH.sub(" ", text))


def telling(words: Iterable[str]) -> list[str]:
    """Leave out the words, English or Chinese, that carry no topic."""
    return [word for word in words if word not in _FUNCTION_WORDS and word not in QUESTION_WORDS]


def word_pairs(words: list[str]) -> frozenset[tuple[str, str]]:
    """Neighbouring terms, in the order in which the analyzer gives them."""
    return frozenset(pairwise(words))


def _near_question_word(text: str) -> str:
    """The text around the first question word: 4 characters of Chinese, 3 words of English."""
    if match := _ASKING_ZH.search(text):
        left, right = text[max(0, match.start() - 4) : match.start()], text[match.end() :][:4]
        return f"{left} {right}"
    if match := _MEASURE_EN.search(text) or _ASKING_EN.search(text):
        words = (word for word in text[match.end() : match.end() + 80].split())
        return " ".join(list(words)[:3])
    return ""

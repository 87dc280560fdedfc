"""Text to search terms, the same for passages and queries, for the lexical index.

It normalises (NFKC, case, accents, Traditional to Simplified Chinese), segments Chinese, stems
English and keeps codes such as "E-104" whole beside their parts. It is not a tokenizer for
embedders, and its terms carry no positions: they serve ranking by words, not phrases.
What was measured to choose these rules: docs/decisions/0004-lexical-analysis.md.
"""

from __future__ import annotations

import importlib.util
import math
import re
import threading
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rag.errors import ModelError

ANALYZER_VERSION = 1
"""Raised whenever the same text would give other terms; older indexes are then rebuilt."""

MAX_TERM_CHARS = 64
"""A longer unbroken word is indexed by its first characters only."""

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\u3005\u3007"
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3130-\u318f\uac00-\ud7a3"
)
_HAN_RUN = re.compile(f"[{_HAN}]+")
_UNSPACED_RUN = re.compile(f"[{_UNSPACED}]+")
_WORD = rf"[^\W_{_HAN}{_UNSPACED}]+"
_COMPOUND = re.compile(rf"{_WORD}(?:[-/._,'’]{_WORD})*")
_PLAIN = re.compile(_WORD)
_QUANTITY = re.compile(r"(\d+)([^\W\d]+)")
_DIGIT = re.compile(r"\d")
_JOINERS = dict.fromkeys(map(ord, "-/_,'’"))  # but not the dot: "v2.3" is not "v23"
_MAYBE_ACCENTED = re.compile("[\u00c0-\u052f\u1e00-\u1fff]")  # Latin, Greek, Cyrillic, marks
_ACCENTS = re.compile("[\u0300-\u036f]+")

QUESTION_WORDS = frozenset(
    "a an and are as at be been but by did do does for from had has have how if in into is it "
    "many much no not of on or such that the their then there these they this to was were what "
    "when where which who whom whose why will with".split()
)
"""English words left out of queries (never out of passages): they say nothing of the topic."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of one text; a passage's repeats are meant.

    Attributes:
        words: English stems, numbers and codes in the order of the text; then those of other
            scripts; then Chinese dictionary words in the order of the text.
        runs: The unbroken stretches of Chinese characters, in Simplified form.
    """

    words: list[str]
    runs: list[str]

    @property
    def grams(self) -> list[str]:
        """The pairs of neighbouring Chinese characters; see `pairs` for the last of a run."""
        return pairs(self.runs)


class Analyzer:
    """Turns text into terms. Safe to share between threads; build one per process.

    The Chinese dictionary (jieba's, some 40 MB in memory, about 0.4 s of CPU) and the
    Traditional-to-Simplified table (OpenCC's) are loaded when Chinese text is first met.
    Any string is accepted: whatever is neither a letter nor a digit separates words. The cost
    is linear in the length of the text.
    """

    def __init__(self) -> None:
        import tantivy

        builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace())
        self._stemmer = builder.filter(tantivy.Filter.stemmer("English")).build()
        self._stems: dict[str, str] = {}
        self._chinese: _Chinese | None = None
        self._lock = threading.Lock()

    def passage(self, text: str) -> Terms:
        """Return the terms under which a passage is found."""
        text = _normalize(text)
        words = self._stem(_spaced_words(text))
        return self._with_chinese(text, words)

    def query(self, text: str) -> Terms:
        """Return the distinct terms of a query, English question words left out.

        A query of nothing but such words keeps them.
        """
        text = _normalize(text)
        spaced = _spaced_words(text)
        telling = [word for word in spaced if word not in QUESTION_WORDS]
        terms = self._with_chinese(text, self._stem(telling))
        words = terms.words or self._stem(spaced)
        return Terms(list(dict.fromkeys(words)), list(dict.fromkeys(terms.runs)))

    def _with_chinese(self, text: str, words: list[str]) -> Terms:
        """Add the words of the scripts that put no spaces between them."""
        if text.isascii():
            return Terms(words, [])
        words += pairs(_UNSPACED_RUN.findall(text))
        runs = _HAN_RUN.findall(text)
        if not runs:
            return Terms(words, [])
        chinese = self._load_chinese()
        runs = [run.translate(chinese.simplified) for run in runs]
        for run in runs:
            words += chinese.segment(run)
        return Terms(words, runs)

    def _stem(self, words: list[str]) -> list[str]:
        """Return the English stem of each word, from memory where it has been met before."""
        stems = self._stems
        new = [word for word in set(words) if word not in stems]
        if new:
            with self._lock:
                if len(stems) > 200_000:  # codes and numbers never repeat: keep it bounded
                    stems = self._stems = {}
                    new = list(set(words))
                stems.update(zip(new, self._stemmer.analyze(" ".join(new)), strict=True))
        return [stems[word] for word in words]

    def _load_chinese(self) -> _Chinese:
        if self._chinese is None:
            with self._lock:
                if self._chinese is None:
                    self._chinese = _Chinese.load()
        return self._chinese


@dataclass(frozen=True, slots=True)
class _Chinese:
    """The jieba dictionary and the Traditional-to-Simplified table.

    Attributes:
        log_frequency: Of each dictionary word of one to three characters, natural log of its
            share of all.
        unknown: The same for a character that the dictionary lacks.
        simplified: For str.translate.
    """

    log_frequency: dict[str, float]
    unknown: float
    simplified: dict[int, str]

    @classmethod
    def load(cls) -> _Chinese:
        """Read both from the installed packages; no cache file is written or trusted.

        Raises:
            ModelError: If the jieba package or its dictionary is missing.
        """
        spec = importlib.util.find_spec("jieba")
        path = Path(spec.origin).with_name("dict.txt") if spec and spec.origin else Path("dict.txt")
        try:
            fields = path.read_text(encoding="utf-8").split()  # word, count, part of speech, ...
        except OSError as error:
            raise ModelError(
                f"The Chinese dictionary of the jieba package cannot be read: {error}.",
                do="Reinstall it: pip install --force-reinstall jieba==0.42.1",
            ) from error
        words, counts = fields[::3], fields[1::3]
        logs = {count: math.log(max(int(count), 1)) for count in set(counts)}
        total = math.log(sum(map(int, counts)))
        frequency = {
            word: logs[count] - total
            for word, count in zip(words, counts, strict=True)
            if len(word) <= 3
        }
        return cls(frequency, -total, _simplification())

    def segment(self, run: str) -> list[str]:
        """Return the words of a run of Chinese characters, in order.

        After each word of three characters come the two-character words inside it.
        """
        words = []
        for word in self.cut(run):
            words.append(word)
            if len(word) == 3:
                words += [pair for pair in (word[:2], word[1:]) if pair in self.log_frequency]
        return words

    def cut(self, run: str) -> list[str]:
        """Cut a run of Chinese characters into its most probable dictionary words.

        The unigram model of jieba without its hidden Markov part: of all cuts into words of at
        most three characters the one with the highest product of frequencies, found by dynamic
        programming from the right.
        """
        n = len(run)
        get = self.log_frequency.get
        unknown = self.unknown
        best1 = best2 = best3 = 0.0  # best log probability of run[i+1:], run[i+2:], run[i+3:]
        lengths = [1] * n
        for i in range(n - 1, -1, -1):
            best = get(run[i], unknown) + best1
            if i + 2 <= n:
                score = get(run[i : i + 2])
                if score is not None and score + best2 >= best:
                    best = score + best2
                    lengths[i] = 2
                if i + 3 <= n:
                    score = get(run[i : i + 3])
                    if score is not None and score + best3 >= best:
                        best = score + best3
                        lengths[i] = 3
            best1, best2, best3 = best, best1, best2
        words = []
        start = 0
        while start < n:
            words.append(run[start : start + lengths[start]])
            start += lengths[start]
        return words


def _normalize(text: str) -> str:
    """Return `text` in compatibility form, lower case, without accents."""
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", text).casefold()
    if _MAYBE_ACCENTED.search(text):
        bare = _ACCENTS.sub("", unicodedata.normalize("NFD", text))
        text = unicodedata.normalize("NFC", bare)
    return text


def _spaced_words(text: str) -> list[str]:
    """Return the words of scripts that put spaces between them, codes whole and by part."""
    words = []
    for token in _COMPOUND.findall(text):
        if token.isalpha():
            words.append(token[:MAX_TERM_CHARS])
            continue
        parts = _PLAIN.findall(token)
        words += [part[:MAX_TERM_CHARS] for part in parts]
        if len(token) > MAX_TERM_CHARS:
            continue
        if len(parts) > 1 and _DIGIT.search(token):
            words.append(token.translate(_JOINERS))
        elif quantity := _QUANTITY.fullmatch(token):
            words += quantity.groups()
    return words


def pairs(runs: Iterable[str]) -> list[str]:
    """Return the overlapping character pairs of each run; its last character stands alone.

    So every character begins exactly one pair, and a search for a single character can be
    answered by prefix.
    """
    return [run[i : i + 2] for run in runs for i in range(len(run))]


def _simplification() -> dict[int, str]:
    """Return the single characters that OpenCC turns from Traditional to Simplified."""
    import opencc

    blocks = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0x20000, 0x2FA20))
    characters = [chr(code) for first, end in blocks for code in range(first, end)]
    converted = opencc.OpenCC("t2s").convert("\n".join(characters)).split("\n")
    return {ord(old): new for old, new in zip(characters, converted, strict=True) if old != new}

"""Compares an answer's text with right answers: exact match, F1, ROUGE-L, BLEU. Pure functions.

English is measured as SQuAD does, Chinese by characters as CMRC 2018 does. Marks such as [1] are
taken out first. ROUGE-L is our own: the package rouge-score drops every character that is not
a-z or 0-9, so that all Chinese texts are empty to it. BLEU is sacrebleu's.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rag.language import HAN, is_chinese

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU

TEXT_METRICS = ("exact_match", "f1", "rouge_l", "bleu")
"""In the order in which they are reported; in [0, 1], but BLEU, which is in [0, 100]."""

_MARK = re.compile(r"\[[0-9]{1,3}\]")
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_ENGLISH_WORD = re.compile(r"[a-z0-9]+")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = rf"[^\W_{HAN}]+"
_CHINESE_TOKEN = re.compile(rf"[{HAN}]|{_WORD}(?:[.,](?=[0-9]){_WORD})*|[%‰°$€£¥]")


def bare_text(text: str) -> str:
    """Return a text without its [n] marks."""
    return _MARK.sub("", text)


def holds_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether a text contains one of the answers.

    Both are compared in Unicode compatibility form (NFKC), lower case, with white space folded;
    the [n] marks of the text are taken out first.
    """
    folded = _fold(bare_text(text))
    return any(part in folded for answer in answers if (part := _fold(answer)))


def squad_normal(text: str) -> str:
    """Normalise as SQuAD does.

    Lower case, without ASCII punctuation, without the articles a, an and the, words separated by
    single blanks.
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def chinese_tokens(text: str) -> list[str]:
    """Cut a text as CMRC 2018 does: each Chinese character alone, other words and numbers whole.

    Lower case, compatibility forms (NFKC), without white space and punctuation; signs that belong
    to a number (%, ‰, °, $, €, £, ¥) are tokens. CMRC has NLTK cut what is not Chinese and
    removes Chinese punctuation only; here all goes.
    """
    return _CHINESE_TOKEN.findall(unicodedata.normalize("NFKC", text).lower())


def speak_chinese(questions: Sequence[tuple[str, Sequence[str]]]) -> list[bool]:
    """Tell which questions' answers are to be measured as Chinese.

    Those with a Chinese answer. And, since "308" and "NFL" are in no language, those asked in
    Chinese, if the answers to all questions asked in Chinese are mostly Chinese.

    Args:
        questions: Question and right answers of each.
    """
    asked = [is_chinese(question) for question, _ in questions]
    together = " ".join(
        answer
        for (_, answers), chinese in zip(questions, asked, strict=True)
        for answer in answers
        if chinese
    )
    likely = is_chinese(together)
    return [
        any(map(is_chinese, answers)) or (chinese and likely)
        for (_, answers), chinese in zip(questions, asked, strict=True)
    ]


def exact_match(text: str, answers: Sequence[str], *, chinese: bool) -> float:
    """Return 1 if a text is one of the answers, normalised, else 0.

    SQuAD: `squad_normal` of both is the same. Chinese: `chinese_tokens` of both are.

    Args:
        text: The answer given, marks and all.
        answers: The right ones; those of which normalising leaves nothing count only if all are
            such, as in SQuAD 2.0.
        chinese: Which rule.
    """
    normal = chinese_tokens if chinese else squad_normal
    got = normal(bare_text(text))
    return float(any(got == normal(answer) for answer in _real(answers, normal)))


def answer_f1(text: str, answers: Sequence[str], *, chinese: bool) -> float:
    """Return the best F1 of a text against the answers, in [0, 1].

    F1 = 2 P R / (P + R), P = common / tokens of the text, R = common / tokens of the answer.
    SQuAD (Rajpurkar et al. 2016; 2018 where one side is empty: 1 if both are): the tokens are the
    words of `squad_normal`, common ones are counted as often as both hold them. CMRC 2018 (Cui et
    al. 2019): `chinese_tokens`, common is the longest stretch that both hold.

    Args:
        text: The answer given, marks and all.
        answers: The right ones.
        chinese: Which rule.
    """
    text = bare_text(text)
    if chinese:
        got = chinese_tokens(text)
        wanted = [chinese_tokens(answer) for answer in _real(answers, chinese_tokens)]
        return max((_f1(_common_stretch(got, w), got, w) for w in wanted), default=0.0)
    words = squad_normal(text).split()
    lists = [squad_normal(answer).split() for answer in _real(answers, squad_normal)]
    return max((_f1(_common_words(words, w), words, w) for w in lists), default=0.0)


def rouge_l(text: str, answers: Sequence[str], *, chinese: bool) -> float:
    """Return the best ROUGE-L F1 (Lin 2004, beta = 1) of a text against the answers, in [0, 1].

    P and R as in `answer_f1`, common being the longest common subsequence. English tokens are
    runs of a-z and 0-9 in lower case, not stemmed; Chinese ones are `chinese_tokens`.
    """
    cut: Callable[[str], list[str]] = chinese_tokens if chinese else _english_words
    got = cut(bare_text(text))
    return max(
        (
            _f1(_common_subsequence(got, wanted), got, wanted)
            for answer in answers
            if (wanted := cut(answer))
        ),
        default=0.0,
    )


class Bleu:
    """sacrebleu's BLEU-4 over texts of which some may be Chinese; needs `sacrebleu`.

    The 13a tokenizer cuts English, sacrebleu's zh tokenizer Chinese. Where all texts are in one
    language the figure is sacrebleu's own for that tokenizer.
    """

    def __init__(self) -> None:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
        from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

        self._english: Any = Tokenizer13a()
        self._chinese: Any = TokenizerZh()
        self._corpus: BLEU = BLEU(tokenize="none", force=True)
        self._sentence: BLEU = BLEU(tokenize="none", force=True, effective_order=True)

    def corpus(
        self, texts: Sequence[str], answers: Sequence[Sequence[str]], chinese: Sequence[bool]
    ) -> float:
        """Return corpus BLEU in [0, 100].

        Args:
            texts: Answers given; "" where there is none, which costs brevity.
            answers: The right ones of each, at least one each.
            chinese: Which tokenizer each gets.

        Raises:
            ValueError: If a text has no right answer.
        """
        if not all(answers):
            raise ValueError("got a text without a right answer, expected at least one")
        cut = [self._cut(bare_text(text), zh) for text, zh in zip(texts, chinese, strict=True)]
        wanted = [
            [self._cut(answer, zh) for answer in some]
            for some, zh in zip(answers, chinese, strict=True)
        ]
        most = max(map(len, wanted), default=0)
        # sacrebleu takes a stream for the first answers, one for the second, ...
        streams: Any = [
            [some[place] if place < len(some) else None for some in wanted] for place in range(most)
        ]
        return float(self._corpus.corpus_score(cut, streams).score) if cut else 0.0

    def sentence(self, text: str, answers: Sequence[str], *, chinese: bool) -> float:
        """Return the BLEU of one text in [0, 100], orders it is too short for left out."""
        wanted = [self._cut(answer, chinese) for answer in answers]
        return float(
            self._sentence.sentence_score(self._cut(bare_text(text), chinese), wanted).score
        )

    def _cut(self, text: str, chinese: bool) -> str:
        tokenizer = self._chinese if chinese else self._english
        return str(tokenizer(text.rstrip()))


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def _real(answers: Sequence[str], normal: Callable[[str], Any]) -> list[str]:
    return [answer for answer in answers if normal(answer)] or list(answers)


def _f1(common: int, got: Sequence[str], wanted: Sequence[str]) -> float:
    if not got or not wanted:
        return float(not got and not wanted)
    if common == 0:
        return 0.0
    precision, recall = common / len(got), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def _common_words(got: Sequence[str], wanted: Sequence[str]) -> int:
    return (Counter(got) & Counter(wanted)).total()


def _english_words(text: str) -> list[str]:
    return _ENGLISH_WORD.findall(text.lower())


def _common_stretch(got: Sequence[str], wanted: Sequence[str]) -> int:
    """Tokens of the longest stretch that both hold."""
    longest = 0
    before = [0] * (len(wanted) + 1)
    for token in got:
        ends = [0]
        for place, other in enumerate(wanted):
            ends.append(before[place] + 1 if token == other else 0)
        longest = max(longest, *ends)
        before = ends
    return longest


def _common_subsequence(got: Sequence[str], wanted: Sequence[str]) -> int:
    """Tokens of the longest subsequence that both hold."""
    before = [0] * (len(wanted) + 1)
    for token in got:
        row = [0]
        for place, other in enumerate(wanted):
            row.append(before[place] + 1 if token == other else max(before[place + 1], row[place]))
        before = row
    return before[-1]

"""Asks the last question about something else: "What about the D60?" after one about the D40.

Plain text in, plain text out; whether a question is such a contrast, rag.followup decides.
"""

from __future__ import annotations

import re

from rag.followup import codes, telling_words
from rag.language import HAN, is_chinese

CLOSING = " ?？!！.。"
"""What may stand at the end of a question."""

_WH_EN = r"(?:what|which|who|whom|whose|when|where|why|how)"
_PREPOSITIONS = r"(?:for|in|on|at|with|without|under|from|by|to|within|during|after|before|of|per)"
_AUXILIARY = r"(?:is|are|was|were|do|does|did|can|could|may|must|should|will|would|has|have|had)"
_NUMERAL = "一二三四五六七八九十百"
_SHAPED = re.compile(
    rf"第[{_NUMERAL}\d]+[{HAN}]|[{_NUMERAL}]+[类類级級期档檔号號]"
    rf"|(?<![A-Za-z0-9.-])\d+(?:\.\d+)?\s*[{HAN}]"
    r"|(?<![A-Za-z0-9-])(?=[A-Za-z0-9-]{0,24}\d)[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]"
    r"|\b[A-Za-z]+ \d+\b|\b(?:19|20)\d\d\b|\b[A-Za-z]+-[A-Za-z]+\b"
)
_COMPOUND = re.compile(r"[A-Za-z]+-([A-Za-z]+)")
_DIGITS = re.compile(rf"[\d{_NUMERAL}]+(?:\.\d+)?")
_LED = re.compile(rf"({_PREPOSITIONS})\s+.+", re.IGNORECASE)
_PHRASE_EN = rf"[^,;?.!]+?(?=\s+(?:{_PREPOSITIONS}|{_AUXILIARY})\b|[,;?.!]|$)"
_ARTICLE = re.compile(r"^(?:the|an?|our|my|your)\s+", re.IGNORECASE)
_SUBJECT = re.compile(
    r"\b(?:do|can|may|must|should|will) (?:the |our |my |your )?(\w+s)\b", re.IGNORECASE
)
_ASKING_ZH = re.compile(r"什么|什麼|多少|多久|多[高大长長重]|[几幾]|哪|谁|誰|何|怎|吗|嗎|是否")
_OWNED_ZH = re.compile(
    rf"(?<=的)(?:(?!的)[{HAN}]){{1,8}}?(?=最|至少|可以|需要|要|能|是|在|有|{_ASKING_ZH.pattern})"
)
_SHORT_WORD_ZH = re.compile(f"[{HAN}]{{2,4}}")


def contrasted(context: str, fragment: str) -> str:
    """Ask a question about what a fragment names instead.

    What the fragment contrasts with gives way to it where it can be told: a code or number of the
    same shape, the words after the same preposition or before the same noun, a plural subject, a
    Chinese word with the same last character. Whatever of the fragment found no place is added at
    the end, within the sentence.

    Args:
        context: The earlier question; one that stands alone.
        fragment: As in rag.followup.Dependence.
    """
    if not fragment:
        return context
    if fragment.startswith("的") and (owned := _OWNED_ZH.search(context)):
        return context[: owned.start()] + fragment[1:] + context[owned.end() :]
    fragment = fragment.removeprefix("的")
    text, left = _swap_shapes(context, fragment)
    if left == fragment:
        text, left = _swap_phrase(text, left)
    known = text.casefold()
    left = " ".join(word for word in left.split() if _adds(word) and word.casefold() not in known)
    if not left:
        return text
    mark, space = ("？", " ") if is_chinese(text) else ("?", ", ")
    return f"{text.rstrip(CLOSING)}{space}{left}{mark}"


def _adds(word: str) -> bool:
    """Whether a word left over from a fragment says something; no single character does."""
    return len(word) > 1 and bool(telling_words(word) or codes(word))


def _swap_shapes(context: str, fragment: str) -> tuple[str, str]:
    """Put each code, number or compound of the fragment where one of the same shape stands.

    Returns:
        The context so changed, and what is left of the fragment.
    """
    left = fragment
    free = list(dict.fromkeys(_SHAPED.findall(context)))
    for named in _SHAPED.findall(fragment):
        for shape in (_prefix, _outline):
            kin = [old for old in free if shape(old) == shape(named)]
            if kin:
                free = [old for old in free if old not in kin]
                for old in kin:
                    context = _replace_whole(context, old, named)
                left = _replace_whole(left, named, " ")
                break
    return context, " ".join(left.split())


def _replace_whole(text: str, old: str, new: str) -> str:
    """Replace `old` where no letter or digit of its kind goes on before or after it."""
    pattern = rf"(?<![A-Za-z0-9-]){re.escape(old)}(?![A-Za-z0-9])"
    return re.sub(pattern, lambda _: new, text)


def _prefix(named: str) -> str:
    """What a code begins with, what a numbered thing is ("zone", "年"), how a compound ends."""
    if compound := _COMPOUND.fullmatch(named):
        return "-" + compound[1].casefold()
    letters = _DIGITS.split(named.casefold(), maxsplit=1)
    unit = letters[-1].strip() if not letters[0].strip("第 ") else ""
    return f"{letters[0].rstrip('- ')}9{unit if not unit.isascii() else ''}"


def _outline(named: str) -> str:
    """The pattern of letters and digits of a code: "a99" for "E05"."""
    return re.sub("[a-z]", "a", re.sub("[0-9]", "9", named.casefold()))


def _swap_phrase(context: str, fragment: str) -> tuple[str, str]:
    """Put the fragment in the place of the phrase it contrasts with, if one is recognised."""
    swap = _swap_chinese if is_chinese(fragment) else _swap_english
    changed = swap(context, fragment)
    return (context, fragment) if changed is None else (changed, "")


def _swap_english(context: str, fragment: str) -> str | None:
    """After the same preposition, before the same noun, or as the subject; None if nowhere."""
    if led := _LED.fullmatch(fragment):
        same = re.compile(rf"\b{led[1]}\s+(?!{_WH_EN}\b){_PHRASE_EN}", re.IGNORECASE)
        if found := same.search(context):
            return context[: found.start()] + fragment + context[found.end() :]
    words = _ARTICLE.sub("", fragment).split()
    if len(words) > 1:
        modifiers = rf"(?:[\w-]+\s+){{1,{len(words) - 1}}}?"
        noun = re.compile(rf"\b({modifiers}){re.escape(words[-1])}\b", re.IGNORECASE)
        if (found := noun.search(context)) and telling_words(found[1]):
            return context[: found.start()] + " ".join(words) + context[found.end() :]
    if len(words) == 1 and words[0].endswith("s") and (found := _SUBJECT.search(context)):
        return context[: found.start(1)] + words[0] + context[found.end(1) :]
    return None


def _swap_chinese(context: str, fragment: str) -> str | None:
    """In the place of a word that ends with the same character; None if there is none."""
    if not _SHORT_WORD_ZH.fullmatch(fragment):
        return None
    same = re.compile(rf"(?:^|(?<=[\s，,。？?的是有在和与與]))[{HAN}]{{1,3}}{fragment[-1]}")
    found = same.search(context)
    if found is None or _ASKING_ZH.search(found[0]):
        return None
    return context[: found.start()] + fragment + context[found.end() :]

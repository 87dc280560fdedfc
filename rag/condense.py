"""Makes a question that stands alone from a follow-up question and the conversation before it.

`condense` does it by rules, for search and for the answerer that quotes; `condense_with_model`
asks a chat model and falls back to the rules. `rewrite` only takes polite filler off a question.
Only what the user asked is read for context by the rules, never what was answered. What was
measured: docs/decisions/0012-follow-up-questions.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rag.followup import Dependence, codes, dependence, telling_words
from rag.language import HAN, is_chinese, question_language
from rag.prompt import Message

By: TypeAlias = Literal["none", "rules", "model"]

MAX_TURNS = 3
"""So many of the user's last questions are read."""

MAX_CHARS = 300
"""Longest text that the rules make."""

MAX_MODEL_CHARS = 400
"""Longest question that is taken from a model."""

_WH_EN = r"(?:what|which|who|whom|whose|when|where|why|how)"
_PREPOSITIONS = r"(?:for|in|on|at|with|without|under|from|by|to|within|during|after|before|of|per)"
_AUXILIARY = r"(?:is|are|was|were|do|does|did|can|could|may|must|should|will|would|has|have|had)"
_PLAIN_WORD = re.compile(r"\w(?:[\w@./-]*\w)?")
_PREDICATE_ZH = re.compile(
    r"最[多少高低大晚早]|至少|可以|可不可以|要(?!求|点|點|素)|(?<![机機])[会會](?![议議员員计計])"
    r"|(?<![功性智职職机機])能(?![源力耗效])|[应應]|允许|允許|需|多[少久高大長长]|什么|什麼|[几幾]|哪|谁|誰"
    r"|何|怎|吗|嗎|(?<![于於凡])是|有(?![限效关關机機])|还|還|(?<![现現存所])在"
)
_ASKING_ZH = re.compile(
    r"为什么|為什麼|为何|為何|什么|什麼|甚麼|是?多少|多久|多[高大长長远遠重快深宽寬]|哪[个個些里裡儿兒位家种種]?"
    r"|谁|誰|何[时時人处處地年]|如何|第?[几幾][个個位名次年月日天岁歲人种種点點条條台臺级級层層份分]?"
    r"|怎[么麼样樣]*|是否|请问|請問|[吗嗎呢]|可以|能不能|有没有|有沒有"
)
_MARKS = re.compile(r"[?？!！。]|[.](?=\s|$)")
_CLOSING = " ?？!！.。"
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
_OWNED_ZH = re.compile(
    rf"(?<=的)(?:(?!的)[{HAN}]){{1,8}}?(?=最|至少|可以|需要|要|能|多少|多久|多[高大长長重]|什么|什麼|[几幾]|哪|怎|是|在|有)"
)
_SHORT_WORD_ZH = re.compile(f"[{HAN}]{{2,4}}")


@dataclass(frozen=True, slots=True)
class Condensed:
    """A question that stands alone.

    Attributes:
        text: The question to search with.
        changed: Whether it differs from what was asked.
        by: Who made it: "none", nobody, it stood alone; "rules"; or "model".
    """

    text: str
    changed: bool
    by: By


def condense(question: str, history: Sequence[Message]) -> str:
    """Make a follow-up question stand alone, by rules.

    Args:
        question: Any string.
        history: Earlier messages, oldest first; only the last MAX_TURNS of the user's are read.

    Returns:
        The question itself if it stands alone or nothing was asked before it; else at most
        MAX_CHARS characters that hold it, or what it names, with the topic of the last question.
        The same arguments always give the same text; the cost is linear in their length.
    """
    hanging = dependence(question)
    if hanging.kind in ("alone", "nothing"):
        return question
    context = _context(history)
    return _combine(context, hanging) if context else question


def _context(history: Sequence[Message]) -> str:
    """The user's last question, itself made to stand alone; "" if there is none."""
    asked: list[str] = []
    for message in reversed(history):
        if message.role != "user":
            continue
        asked.append(message.content)
        if len(asked) == MAX_TURNS:
            break
    context = ""
    for text in reversed(asked):
        hanging = dependence(text)
        if hanging.kind == "nothing":
            continue
        context = _combine(context, hanging) if context and hanging.kind != "alone" else text
    return " ".join(_tail(context, MAX_CHARS).split())


def _combine(context: str, hanging: Dependence) -> str:
    """The dependent question with the topic of its context, at most MAX_CHARS characters."""
    if hanging.kind == "contrast":
        room = MAX_CHARS - len(hanging.fragment) - 2
        return _contrasted(_tail(context, room), hanging.fragment)[:MAX_CHARS]
    question = " ".join(hanging.fragment.split())
    topic = _topic(_tail(context, MAX_CHARS))
    stop = "。" if is_chinese(topic) else ". "
    room = MAX_CHARS - len(question) - len(stop)
    return f"{_tail(topic, room).rstrip(_CLOSING)}{stop}{question}" if topic else question


def _topic(context: str) -> str:
    """What a question is about.

    In Chinese, where the topic stands first, what stands before the first verb of asking; in
    English its telling words. Kept apart from the new question by a full stop, they count half
    for the answerer (rag.question.BACKGROUND_WEIGHT).
    """
    if not is_chinese(context):
        words = _PLAIN_WORD.findall(context)
        return " ".join(word for word in words if telling_words(word) or codes(word))
    head = _PREDICATE_ZH.split(context, maxsplit=1)[0].strip(" ，,、。")
    if telling_words(head) > 1 or codes(head):
        return head
    return " ".join(_MARKS.sub(" ", _ASKING_ZH.sub(" ", context)).split())


def _contrasted(context: str, fragment: str) -> str:
    """The last question, asked about what the fragment names.

    What the fragment contrasts with gives way to it if it can be told: a code or number of the
    same shape, the words before the same noun or after the same preposition. Whatever of the
    fragment found no place is added at the end, within the sentence.
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
    return f"{text.rstrip(_CLOSING)}{space}{left}{mark}"


def _adds(word: str) -> bool:
    """Whether a word left over from a fragment says something; no single character does."""
    return len(word) > 1 and bool(telling_words(word) or codes(word))


def _swap_shapes(context: str, fragment: str) -> tuple[str, str]:
    """Put each code, number or compound of the fragment where one of the same shape stands.

    Returns:
        The context so changed, and what is left of the fragment.
    """
    left = fragment
    for named in _SHAPED.findall(fragment):
        for shape in (_prefix, _outline):
            kin = [old for old in _SHAPED.findall(context) if shape(old) == shape(named)]
            if kin:
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


def _tail(text: str, room: int) -> str:
    """The last `room` characters, from the beginning of a word where there is one."""
    if len(text) <= room:
        return text
    cut = text[len(text) - room :] if room > 0 else ""
    return cut.split(" ", 1)[-1] if " " in cut.strip() else cut

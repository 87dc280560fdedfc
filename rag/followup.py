"""Whether a question depends on what was said before it, and in which way.

Plain rules over words, for Chinese and English; no language model, no dictionary. It decides and
never writes: rag.condense makes the text that stands alone. A noun that is only known from the
conversation ("How long is the session?") is not recognised unless the question is very short.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rag.index.analyze import QUESTION_WORDS
from rag.language import HAN, is_chinese
from rag.question import telling

Kind: TypeAlias = Literal["alone", "contrast", "continues", "nothing"]

MAX_FOLLOW_UP_CHARS = 160
"""A longer question stands alone: it has room to say what it is about."""

OWN_ANTECEDENT = 3
"""So many telling words before a pronoun are taken for what it stands for."""

FEW_WORDS = 1
"""A question with at most so many telling words says too little to stand alone."""

FEW_AFTER_OPENER = 3
"""The same for a question that begins with "and", "but", "那", "还有", ..."""

_HAN_PER_WORD = 2

_CODE = re.compile(
    r"(?<![A-Za-z0-9])(?=[A-Za-z0-9-]{0,24}\d)[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]"
    r"|(?<![A-Za-z0-9-])[A-Z]{2,}(?![A-Za-z0-9])"
)
_NAME = re.compile(r"(?<=[a-z0-9,;] )[A-Z][A-Za-z]+")
_WORD = re.compile(rf"[^\W_{HAN}]+(?:[-'’.][^\W_{HAN}]+)*")
_HAN_CHARACTER = re.compile(f"[{HAN}]")

_OPENER_EN = re.compile(
    r"(?:(?:and|but|also|or|so|then|now|ok|okay|well|plus|besides|alright|thanks|thank you)\b"
    r"[\s,.!;:]*)+",
    re.IGNORECASE,
)
_ABOUT_EN = re.compile(
    r"(?:(?:what|how) about|what of|(?:the )?same (?:question )?(?:for|with|about|in|on))\b\s*",
    re.IGNORECASE,
)
_OWN_QUESTION_EN = re.compile(
    r"\b(?:what|which|who|whom|whose|when|where|why|how)\b"
    r"|^(?:is|are|was|were|am|do|does|did|can|could|may|might|must|shall|should|will|would|has|have"
    r"|had|tell|show|list|give|explain|describe|compare|define|find|name|summari[sz]e)\b",
    re.IGNORECASE,
)
_PREPOSITION_EN = (
    r"(?:for|in|on|at|with|without|under|from|by|to|within|during|after|before|of|per|as|until)"
)
_PRONOUN_EN = re.compile(
    r"\b(?:its?|itself|they|them|their|theirs|he|him|his|she|hers?|these|those"
    r"|the (?:former|latter)|th(?:is|at) one"
    r"|(?:which|the (?:other|first|second|last|next)) ones?)\b"
    r"|\bthis\b(?! (?:year|month|week|quarter|morning|time))"
    r"|\b(?:for|of|to|in|on|with|about|after|before|than|at|by|from|like|do|does|is|was|did|can"
    r"|will|would|should|over|under|and|or) that\b"
    r"|\bthat\s*[?.!]*$"
    r"|(?<!is )(?<!are )(?<!was )(?<!were )(?<!if )(?<!be )\bthere\b(?! (?:is|are|was|were|be)\b)",
    re.IGNORECASE,
)
_COMPARING = re.compile(
    r"\b(?:else|otherwise|instead|another|the others?|the same)\b"
    r"|同样|同樣|其他|其它|其餘|其余|别的|別的",
    re.IGNORECASE,
)
_DEFINITION = re.compile(
    r"what (?:is|are) an? [^,;?]+\??|what do(?:es)? .+ mean\??"
    r"|(?:what|who) (?:is|are|was|were) (?:the )?(?-i:[A-Z])[^,;?]+\??"
    r"|(?:什么|什麼|甚麼)(?:是|叫).+|.+(?:是什么|是什麼)(?:意思)?[?？]?",
    re.IGNORECASE,
)
_EMPTY_IT = re.compile(
    r"\b(?:does|did|will|would) it (?:take|cost) to\b"
    r"|\b(?:is|was|will|would) it (?:be )?[a-z]+ (?:to|that|if)\b",
    re.IGNORECASE,
)
_WEAK_EN = frozenset(
    "tell show list give explain describe know like want need thing things please kind sort way "
    "exactly really much many long often far else same instead other others mean meant say more "
    "case happens happen does used use".split()
)

_DEMONSTRATIVE = (
    r"[个個些种種里裡儿兒次样樣时時位台臺款项項类類份张張条條家只隻本部件边邊段期间間两兩几幾]"
)
_OPENER_ZH = re.compile(
    rf"(?:(?:那么|那麼|那(?!{_DEMONSTRATIVE})|还有|還有|另外|以及|而且|而(?!且)|但是|但|可是|不过|不過"
    r"|同样|同樣|然后|然後|所以|对了|對了|顺便|順便|好的|谢谢|謝謝)[，,、。！!\s]*)+"
)
_ABOUT_ZH = re.compile(
    r"(?:如果是|要是|若是|如果|假如|换成|換成|换作|換作|改成|至于|至於|关于|關於|对于|對於|对|對)\s*"
)
_PARTICLE_ZH = re.compile(r"呢[\s？?。！!]*$")
_OWN_QUESTION_ZH = re.compile(
    r"什么|什麼|甚麼|多少|多久|多[高大长長远遠重快深宽寬]|[几幾]|哪|谁|誰|何|怎|吗|嗎|是否|么[？?]|[是为為][\s：:？?]*$"
    r"|(.)[不没沒]\1|有没有|有沒有|^(?:请|請|介绍|介紹|说明|說明|解释|解釋|列出|比较|比較|总结|總結|告诉|告訴)"
)
_PRONOUN_ZH = re.compile(
    r"[它牠]|(?<![其吉])[他她]|(?<!因)此(?!外)|前者|后者|後者|上述|上面|刚才|剛才"
    rf"|(?<![》」』”’\"'])[这這]|那(?={_DEMONSTRATIVE})|(?<![应應活])该(?=[^不怎])|(?<![应應活])該(?=[^不怎])"
    r"|(?<![尤极極与與])其(?![实實次他它余餘])"
)
_EMPTY_ZH = re.compile(
    r"[这這][里裡边邊]?(?=[年月周週天])|为什么|為什麼|为何|為何|什么|什麼|甚麼|多少|多久|怎么样|怎麼樣|怎么|怎麼|怎样|怎樣"
    r"|如何|哪些|哪里|哪裡|哪儿|哪兒|哪[个個]|哪|谁|誰|是否|可以|需要|应该|應該|必须|必須|一下|一次|一共"
    r"|的话|的話|时候|時候|[这這那][个個些种種里裡儿兒次样樣时時么麼]?|有没有|有沒有|请问|請問|我们|我們|你们|你們"
    r"|最多|最少|至少|最[高低大晚早长長]|[几幾][个個天年次位]?|[它他她牠]们?|一[台臺个個件次只隻套天年位人]|[吗嗎呢吧啊呀的了是在和与與或有被由于於"
    r"为為以及其该該此之而也都就要会會能到对對从從个個我你您把给給让讓请請做叫多里裡来來去还還最才不"
    r"没沒每前后後钱錢得着过過又再上下中内內]"
)
_ACKNOWLEDGEMENT = re.compile(
    r"(?:ok(?:ay)?|thanks?(?: you)?(?: very much| a lot| so much)?|great|good|perfect|got it|i see"
    r"|hi|hello|hey|bye|yes|no|sure|好的?|谢谢[你您]?|謝謝[你您]?|多谢|多謝|明白了?|知道了|了解|你好|您好"
    r"|再见|再見|嗯|是的|不是|[\s,.!，。！~、])+",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Dependence:
    """How a question hangs on what was said before.

    Attributes:
        kind: "alone": it does not. "contrast": it names something else to ask the last question
            about ("What about the D60?", "JL-220 呢？"). "continues": it asks something else about
            what was spoken of ("How loud is it?"). "nothing": it asks nothing ("Thanks!").
        fragment: Of a contrast, what is named, without its openers, pronouns and particles; it
            begins with "的" if it was named as something of the last topic ("它的叶轮呢？").
            Else the question.
    """

    kind: Kind
    fragment: str


def dependence(question: str) -> Dependence:
    """Tell whether and how a question depends on the conversation.

    Args:
        question: Any string.

    Returns:
        "alone" for every question longer than MAX_FOLLOW_UP_CHARS. The cost is linear in the
        length of the question.
    """
    if len(question) > MAX_FOLLOW_UP_CHARS:
        return Dependence("alone", question)
    text = " ".join(question.split())
    if not any(map(str.isalnum, text)) or _ACKNOWLEDGEMENT.fullmatch(text):
        return Dependence("nothing", question)
    judge = _chinese if is_chinese(text) or not _WORD.search(text) else _english
    return judge(question, text)


def telling_words(text: str) -> int:
    """Count the telling words of a text; two Chinese characters count as one, rounded up."""
    return _telling_english(text) + _telling_chinese(text)


def codes(text: str) -> list[str]:
    """The product and error codes and acronyms of a text ("JL-220", "E05", "VPN"), in order."""
    return _CODE.findall(text)


def _english(question: str, text: str) -> Dependence:
    opener = _OPENER_EN.match(text)
    rest = text[opener.end() :] if opener else text
    if about := _ABOUT_EN.match(rest):
        named = rest[about.end() :]
        return Dependence("contrast", _named(named, _PRONOUN_EN))
    own = _OWN_QUESTION_EN.search(rest)
    count = telling_words(rest)
    if not own:
        led = opener or re.match(_PREPOSITION_EN + r"\b", rest, re.IGNORECASE)
        if count <= (2 * FEW_AFTER_OPENER if led else FEW_WORDS + 1):
            return Dependence("contrast", _named(rest, _PRONOUN_EN))
        return _by_pronoun(question, rest, _PRONOUN_EN)
    return _asking(question, rest, opener is not None, _PRONOUN_EN)


def _chinese(question: str, text: str) -> Dependence:
    opener = _OPENER_ZH.match(text)
    rest = text[opener.end() :] if opener else text
    particle = _PARTICLE_ZH.search(rest)
    bare = rest[: particle.start()] if particle else rest
    own = _OWN_QUESTION_ZH.search(bare)
    count = telling_words(bare)
    if not own:
        about = _ABOUT_ZH.match(bare)
        led = opener or particle or about
        if count <= (2 * FEW_AFTER_OPENER if led else FEW_WORDS + 1):
            fragment = bare[about.end() :] if about else bare
            return Dependence("contrast", _named(fragment, _PRONOUN_ZH).removesuffix("的"))
        return _by_pronoun(question, bare, _PRONOUN_ZH)
    return _asking(question, bare, opener is not None, _PRONOUN_ZH)


def _asking(question: str, text: str, opened: bool, pronoun: re.Pattern[str]) -> Dependence:
    """Judge a question that has a question word of its own, its opener left out."""
    named = codes(text)
    count = telling_words(text)
    if opened and named and count <= len(named):
        return Dependence("contrast", " ".join(named))
    if named and not opened:
        return _by_pronoun(question, text, pronoun)
    if count == 0 or (count <= FEW_WORDS and not _DEFINITION.fullmatch(text)):
        return Dependence("continues", question)
    few = count <= FEW_AFTER_OPENER
    if few and not named and (opened or _COMPARING.search(text)):
        return Dependence("continues", question)
    return _by_pronoun(question, text, pronoun)


def _by_pronoun(question: str, text: str, pronoun: re.Pattern[str]) -> Dependence:
    """Depend if a pronoun stands before anything that it could stand for."""
    found = pronoun.search(_EMPTY_IT.sub(lambda match: "-" * len(match[0]), text))
    if found is None:
        return Dependence("alone", question)
    before = text[: found.start()]
    resolved = codes(before) or _NAME.search(before) or telling_words(before) >= OWN_ANTECEDENT
    return Dependence("alone" if resolved else "continues", question)


def _named(text: str, pronoun: re.Pattern[str]) -> str:
    """What a contrast names: no pronoun, no closing punctuation."""
    return " ".join(pronoun.sub(" ", text).strip(" ?？!！.。,，、;；:：").split())


def _telling_english(text: str) -> int:
    words = [word for word in _WORD.findall(text.casefold()) if word not in QUESTION_WORDS]
    return sum(word not in _WEAK_EN for word in telling(words))


def _telling_chinese(text: str) -> int:
    characters = len(_HAN_CHARACTER.findall(_EMPTY_ZH.sub(" ", text)))
    return -(-characters // _HAN_PER_WORD)

"""Numbers and dates as a spreadsheet shows them, by its number format codes.

Where a format depends on the machine (built-in dates 14 and 22) the date is written year first.
Colours, widths and Chinese numerals ([DBNum1]) are passed over; fractions become decimals.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation

_CN_DATE = 'yyyy"年"m"月"d"日"'
BUILT_IN: dict[int, str] = {
    0: "General", 1: "0", 2: "0.00", 3: "#,##0", 4: "#,##0.00", 9: "0%", 10: "0.00%",
    11: "0.00E+00", 12: "# ?/?", 13: "# ??/??", 14: "yyyy-mm-dd", 15: "d-mmm-yy", 16: "d-mmm",
    17: "mmm-yy", 18: "h:mm AM/PM", 19: "h:mm:ss AM/PM", 20: "h:mm", 21: "h:mm:ss",
    22: "yyyy-mm-dd h:mm", 27: 'yyyy"年"m"月"', 28: 'm"月"d"日"', 29: 'm"月"d"日"',
    30: "m-d-yy", 31: _CN_DATE, 32: 'h"时"mm"分"', 33: 'h"时"mm"分"ss"秒"',
    34: '上午/下午h"时"mm"分"', 35: '上午/下午h"时"mm"分"ss"秒"', 36: 'yyyy"年"m"月"',
    37: "#,##0;-#,##0", 38: "#,##0;-#,##0", 39: "#,##0.00;-#,##0.00", 40: "#,##0.00;-#,##0.00",
    41: "#,##0", 42: "#,##0", 43: "#,##0.00", 44: "#,##0.00", 45: "mm:ss", 46: "[h]:mm:ss",
    47: "mm:ss.0", 48: "##0.0E+0", 49: "@", 50: 'yyyy"年"m"月"', 51: 'm"月"d"日"',
    52: 'yyyy"年"m"月"', 53: 'm"月"d"日"', 54: 'm"月"d"日"', 55: '上午/下午h"时"mm"分"',
    56: '上午/下午h"时"mm"分"ss"秒"', 57: 'yyyy"年"m"月"', 58: 'm"月"d"日"',
}  # fmt: skip
"""Number format ids that files use without spelling them out (those of Chinese Excel)."""

_MAX_CODE = 255
_TOKEN = re.compile(
    r'"(?P<quoted>[^"]*)"?|\\(?P<escaped>.)|_.|\*.|\[(?P<bracket>[^\]]*)\]'
    r"|(?P<ampm>AM/PM|A/P|上午/下午)|(?P<general>General|G/通用格式)"
    r"|(?P<exponent>E[+-])|(?P<date>y+|m+|d+|h+|s+|a{3,4}|e+)|(?P<digit>[0#?])"
    r"|(?P<mark>[.,%@/])|(?P<other>.)",
    re.I | re.S,
)
_ELAPSED = re.compile(r"h+|m+|s+", re.I)
_CONDITION = re.compile(r"(<=|>=|<>|<|>|=)(-?\d+(?:\.\d+)?)$")
_CHINESE = frozenset({"804", "404", "c04", "1004", "1404", "411"})
_MONTHS = (
    "January February March April May June July August September October November December"
).split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_HAN_MONTHS = "一月 二月 三月 四月 五月 六月 七月 八月 九月 十月 十一月 十二月".split()
_HAN_DAYS = "一二三四五六日"


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # literal, date, elapsed, ampm, general, exponent, digit, mark
    text: str


@dataclass(frozen=True, slots=True)
class _Section:
    """One of the parts of a format code that semicolons separate."""

    tokens: tuple[_Token, ...]
    condition: tuple[str, float] | None
    chinese: bool

    @property
    def is_date(self) -> bool:
        return any(token.kind in ("date", "elapsed", "ampm") for token in self.tokens)


def show_number(value: float, code: str, *, from_1904: bool = False) -> str:
    """Write a number as a cell with a format shows it.

    Args:
        value: The stored number; for dates, days since the last day of 1899 (or 1904).
        code: The format, for example "#,##0.00" or 'yyyy"年"m"月"'.
        from_1904: Whether the workbook counts days from 1904.

    Returns:
        The text, on one line; the plain number where the format cannot be applied.
    """
    if value != value or value in (float("inf"), float("-inf")) or len(code) > _MAX_CODE:
        return _general(value)
    sections = [_section(part) for part in _split(code)]
    section, unsigned = _choose(sections, value)
    if section.is_date:
        return _date(value, section, from_1904)
    if unsigned:
        value = abs(value)
    kinds = {token.kind for token in section.tokens}
    if not kinds & {"digit", "general"}:
        if any(token == _Token("mark", "@") for token in section.tokens):
            return _general(value)
        return "".join(token.text for token in section.tokens if token.kind == "literal").strip()
    if "general" in kinds:
        return "".join(
            _general(value) if token.kind == "general" else token.text
            for token in section.tokens
            if token.kind in ("general", "literal")
        ).strip()
    return _number(value, section.tokens)


def _general(value: float) -> str:
    """Write a number with at most ten significant digits behind the point, never as 1e5."""
    if value == int(value) if abs(value) < 1e15 else False:
        return str(int(value))
    if 1e-4 <= abs(value) < 1e15:
        digits = max(10 - len(str(int(abs(value)))), 2)
        return f"{value:.{digits}f}".rstrip("0").rstrip(".")
    return f"{value:.6g}".upper()


def _split(code: str) -> list[str]:
    """Cut a format at the semicolons that stand outside quotes and brackets."""
    parts, start = [], 0
    for token in _TOKEN.finditer(code):
        if token.group("other") == ";":
            parts.append(code[start : token.start()])
            start = token.end()
    return [*parts, code[start:]][:4]


def _section(part: str) -> _Section:
    tokens: list[_Token] = []
    condition, chinese = None, False
    for match in _TOKEN.finditer(part):
        kind, text = match.lastgroup, match.group(match.lastgroup or 0)
        if kind == "bracket":
            if _ELAPSED.fullmatch(text):
                tokens.append(_Token("elapsed", text.lower()))
            elif (found := _CONDITION.match(text)) is not None:
                condition = (found.group(1), float(found.group(2)))
            elif text.startswith("$"):
                symbol, _, locale = text[1:].partition("-")
                chinese = chinese or locale.lower() in _CHINESE
                tokens += [_Token("literal", symbol)] if symbol else []
        elif kind is None:
            tokens += [_Token("literal", " ")] if text.startswith("_") else []
        elif kind in ("quoted", "escaped", "other"):
            tokens.append(_Token("literal", text))
        else:
            tokens.append(_Token(kind, text.lower() if kind == "date" else text))
    return _Section(tuple(tokens), condition, chinese)


def _choose(sections: list[_Section], value: float) -> tuple[_Section, bool]:
    """Return the section for a value, and whether the value's sign is left to its literals."""
    conditional = [section for section in sections if section.condition is not None]
    for section in conditional:
        sign, bound = section.condition or ("=", 0.0)
        if {
            "<": value < bound, ">": value > bound, "=": value == bound,
            "<=": value <= bound, ">=": value >= bound, "<>": value != bound,
        }[sign]:  # fmt: skip
            return section, value < 0 and bound <= 0 and sign in ("<", "<=")
    if conditional:
        plain = [section for section in sections if section.condition is None]
        return (plain or sections)[0], False
    if value < 0 and len(sections) > 1:
        return sections[1], True
    if value == 0 and len(sections) > 2:
        return sections[2], False
    return sections[0], False


def _number(value: float, tokens: tuple[_Token, ...]) -> str:
    """Fill a format of digit places; `tokens` holds at least one."""
    kinds = [token.kind for token in tokens]
    if "exponent" in kinds:
        decimals = _places(tokens[: kinds.index("exponent")])[1]
        return f"{value:.{decimals}E}"
    if _is_fraction(tokens):
        return _general(value)
    whole, decimals, optional, commas, scale = _shape(tokens)
    try:
        exact = Decimal(repr(value)).scaleb(scale)
        text = f"{abs(exact).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP):f}"
    except InvalidOperation:
        return _general(value)
    left, _, right = text.partition(".")
    left = left.lstrip("0").rjust(whole, "0")
    for _ in range(optional):
        right = right[:-1] if right.endswith("0") else right
    if set(left + right) <= {"0"}:
        value = 0.0
    grouped = f"{int(left):,}".rjust(len(left), "0") if commas and left else left
    return ("-" if value < 0 else "") + _fill(tokens, grouped, right).strip()


def _shape(tokens: tuple[_Token, ...]) -> tuple[int, int, int, bool, int]:
    """Return digits before the point, after it, optional ones after, grouping, power of ten."""
    places, decimals = _places(tokens)
    after = False
    whole = optional = scale = 0
    commas = False
    last = max(index for index, token in enumerate(tokens) if token.kind == "digit")
    for index, token in enumerate(tokens):
        if token == _Token("mark", "."):
            after = True
        elif token == _Token("mark", "%"):
            scale += 2
        elif token == _Token("mark", ","):
            if index > last:
                scale -= 3
            elif not after:
                commas = True
        elif token.kind == "digit" and not after:
            whole += token.text == "0"
        elif token.kind == "digit":
            optional = optional + 1 if token.text != "0" else 0
    return min(whole, places), decimals, optional, commas, scale


def _places(tokens: tuple[_Token, ...]) -> tuple[int, int]:
    """Count the digit places before and after the point."""
    point = next((i for i, token in enumerate(tokens) if token == _Token("mark", ".")), len(tokens))
    before = sum(token.kind == "digit" for token in tokens[:point])
    return before, sum(token.kind == "digit" for token in tokens[point:])


def _is_fraction(tokens: tuple[_Token, ...]) -> bool:
    return any(token == _Token("mark", "/") for token in tokens)


def _fill(tokens: tuple[_Token, ...], left: str, right: str) -> str:
    """Put digits into their places; literals between places before the point split the digits."""
    point = next((i for i, token in enumerate(tokens) if token == _Token("mark", ".")), len(tokens))
    places = [i for i, token in enumerate(tokens[:point]) if token.kind == "digit"]
    inner = any(
        token.kind == "literal" for token in tokens[places[0] : places[-1]]
    ) if places else False  # fmt: skip
    out: list[str] = []
    for index, token in enumerate(tokens):
        if token.kind == "literal":
            out.append(token.text)
        elif token.text == "%":
            out.append("%")
        elif token == _Token("mark", "."):
            out.append(("" if places else left) + ("." if right else ""))
        elif token.kind == "digit" and index > point:
            out.append(right)
            right = ""
        elif token.kind == "digit" and not inner and index == places[0]:
            out.append(left)
        elif token.kind == "digit" and inner:
            rest = sum(place > index for place in places)
            end = len(left) - rest
            out.append(left[:end] if index == places[0] else left[max(end - 1, 0) : max(end, 0)])
    return "".join(out)


def _date(value: float, section: _Section, from_1904: bool) -> str:
    """Write a date or a time; the plain number where it is none."""
    if value < 0 or value >= 2_958_466:
        return _general(value)
    fraction = _fraction_digits(section.tokens)
    day = 1462.0 if from_1904 else 0.0
    whole = value + day + (1 if value + day < 60 and not from_1904 else 0)
    step = 10**fraction
    ticks = round(whole * 86_400 * step)
    moment = datetime(1899, 12, 30) + timedelta(seconds=ticks // step)
    part = ticks % step
    afternoon = any(token.kind == "ampm" for token in section.tokens)
    out: list[str] = []
    tokens = section.tokens
    seconds = round(value * 86_400 * step) // step
    for index, token in enumerate(tokens):
        if token.kind == "elapsed":
            unit = {"h": 3600, "m": 60, "s": 1}[token.text[0]]
            out.append(str(seconds // unit).rjust(len(token.text), "0"))
        elif token.kind == "ampm":
            early, _, late = token.text.partition("/")
            out.append(early if moment.hour < 12 else late)
        elif token.kind == "date":
            minutes = token.text[0] == "m" and len(token.text) < 3 and _is_minute(tokens, index)
            out.append(_date_part(moment, token.text, minutes, afternoon, section.chinese))
        elif token.kind == "digit":
            before = index == 0 or tokens[index - 1].kind != "digit"
            out.append(str(part).rjust(fraction, "0") if before and fraction else "")
        elif token.text != "@":
            out.append(token.text)
    return "".join(out).strip()


def _fraction_digits(tokens: tuple[_Token, ...]) -> int:
    return min(sum(token.kind == "digit" for token in tokens), 6)


def _is_minute(tokens: tuple[_Token, ...], index: int) -> bool:
    """Whether an "m" means minutes: hours stand before it, or seconds behind it."""
    timed = ("date", "elapsed")
    before = next((token for token in reversed(tokens[:index]) if token.kind in timed), None)
    after = next((token for token in tokens[index + 1 :] if token.kind in timed), None)
    return (before is not None and before.text[0] == "h") or (
        after is not None and after.text[0] == "s"
    )


def _date_part(moment: datetime, token: str, minutes: bool, afternoon: bool, chinese: bool) -> str:
    letter, width = token[0], len(token)
    if minutes or letter in "hs":
        hour = (moment.hour % 12 or 12) if afternoon else moment.hour
        number = {"h": hour, "m": moment.minute, "s": moment.second}[letter]
        return str(number).rjust(min(width, 2), "0")
    if letter in "ye":
        return str(moment.year) if width > 2 or letter == "e" else f"{moment.year % 100:02d}"
    if letter == "a" or (chinese and letter == "d" and width > 2):
        return ("星期" if width > 3 else "周") + _HAN_DAYS[moment.weekday()]
    if width <= 2:
        return str(moment.month if letter == "m" else moment.day).rjust(width, "0")
    if letter == "d":
        return _DAYS[moment.weekday()][: 3 if width == 3 else None]
    if chinese:
        return _HAN_MONTHS[moment.month - 1]
    name = _MONTHS[moment.month - 1]
    return name[0] if width == 5 else name[: 3 if width == 3 else None]

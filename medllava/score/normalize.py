"""Text to words, once, for every metric of the strict protocol.

A reply or a reference enters, a tuple of comparable words leaves. Unlike the reference's rules
(`llava_med_protocol`), a decision never depends on the rest of the string, and Chinese is read
character by character. Nothing here knows about closed or open questions.
"""

import re
import unicodedata
from functools import lru_cache

_CJK = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3040-\u30ff\uac00-\ud7af"
_WORD = re.compile(rf"\d+(?:\.\d+)+|[{_CJK}]|[^\W_{_CJK}]+(?:'[^\W_{_CJK}]+)*|%")
_INITIALS = re.compile(r"\b(?:[^\W\d_]\.){2,}")
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_BARE_POINT = re.compile(r"(?<![\w.])\.(?=\d)")
_ARTICLES = frozenset({"a", "an", "the"})
NAME_A = "A"
"""The word "A" where it names something, as in hepatitis A; upper case, for the article goes."""
_CLASSES = frozenset(
    [
        "type",
        "grade",
        "class",
        "group",
        "stage",
        "level",
        "zone",
        "hepatitis",
        "vitamin",
        "influenza",
        "hemophilia",
        "protein",
        "factor",
        "strain",
        "stanford",
        "phase",
        "variant",
        "category",
        "subtype",
        "apolipoprotein",
        "immunoglobulin",
        "option",
        "choice",
        "answer",
        "letter",
        "hemoglobin",
        "panel",
        "figure",
        "part",
    ]
)
"""Words after which "a" is a name and no article, however it is written."""

_UNIT_NAMES = {
    "mm": "millimeter millimeters",
    "cm": "centimeter centimeters",
    "ml": "milliliter milliliters",
    "mg": "milligram milligrams",
    "kg": "kilogram kilograms",
    "%": "percent",
    "years": "yr yrs year",
    "days": "day",
    "weeks": "week wk wks",
    "months": "month",
    "hours": "hour hr hrs",
    "minutes": "minute min mins",
}
_SAME_UNIT = {name: unit for unit, names in _UNIT_NAMES.items() for name in names.split()}
_UNITS = sorted(
    {*_UNIT_NAMES, *_SAME_UNIT}
    | {
        "m",
        "km",
        "l",
        "dl",
        "cc",
        "g",
        "mcg",
        "ug",
        "μg",
        "ng",
        "iu",
        "u",
        "hu",
        "mmhg",
        "hz",
        "khz",
        "mhz",
        "kv",
        "kvp",
        "ma",
        "mas",
        "gy",
        "cgy",
        "mgy",
        "sv",
        "msv",
        "t",
        "tesla",
        "kpa",
        "bpm",
        "cm2",
        "cm3",
        "mm2",
        "mm3",
        "x",
    },
    key=len,
    reverse=True,
)
_NUMBER_UNIT = re.compile(rf"\b(\d+(?:\.\d+)?)({'|'.join(map(re.escape, _UNITS))})(?!\w)")

_SPELLINGS = (
    (re.compile(r"oedem"), "edem"),
    (re.compile(r"haem|hæm"), "hem"),
    (re.compile(r"(?<=[a-z])aemi"), "emi"),
    (re.compile(r"(?<=isch)aem|(?<=septic)aem"), "em"),
    (re.compile(r"oesoph"), "esoph"),
    (re.compile(r"oestr"), "estr"),
    (re.compile(r"paed"), "ped"),
    (re.compile(r"gynaec"), "gynec"),
    (re.compile(r"anaesth"), "anesth"),
    (re.compile(r"aetiolog"), "etiolog"),
    (re.compile(r"foet(?=us|al)"), "fet"),
    (re.compile(r"\bcaec"), "cec"),
    (re.compile(r"\bfaec"), "fec"),
    (re.compile(r"coeliac"), "celiac"),
    (re.compile(r"rrhoea"), "rrhea"),
    (re.compile(r"leuc(?=ocyt|aem|em|open)"), "leuk"),
    (re.compile(r"(?<=tum)our|(?<=col)our(?!ect)|(?<=hum)our(?=\b|s)"), "or"),
    (re.compile(r"\bgrey"), "gray"),
    (re.compile(r"(?<=fib)re\b"), "er"),
    (re.compile(r"(?<=cent)re(?=s?\b)|(?<=lit)re(?=s?\b)|(?<=met)re(?=s?\b)"), "er"),
    (re.compile(r"isation"), "ization"),
    (re.compile(r"(?<=local|neral|calci|visua)ised\b|(?<=al)ised\b"), "ized"),
    (re.compile(r"sulph"), "sulf"),
)
"""British to American spelling, where medicine has both."""

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMBERS = {word: str(value) for value, word in enumerate(_ONES)} | {
    word: str(10 * value) for value, word in enumerate(_TENS, start=2)
}

_COMPOUND = re.compile(rf"\b({'|'.join(_TENS)})[- ]({'|'.join(_ONES[1:10])})\b", re.IGNORECASE)


@lru_cache(maxsize=65536)
def words(text: str) -> tuple[str, ...]:
    """Return the words of `text` in comparable form.

    Compatibility forms are unified (NFKC), case is folded, punctuation separates words, articles
    go, number words up to ninety-nine become digits, `1,000` is one number, `5cm` two words,
    `U.S.A.` one word, British spelling becomes American, and a Chinese, Japanese or Korean
    character is a word of its own. "A" is a name where it ends the text, follows a word such as
    "type", or is the one capital in the middle of a sentence.
    """
    plain = unicodedata.normalize("NFKC", text).replace("\u2019", "'")
    plain = _GROUPED.sub("", _INITIALS.sub(_joined, _BARE_POINT.sub("0.", plain)))
    plain = _COMPOUND.sub(_compound, plain)
    is_mixed = any(c.islower() for c in plain)
    tokens = list(_WORD.finditer(plain))
    found: list[str] = []
    for i, token in enumerate(tokens):
        word = token.group().casefold()
        if word != "a":
            found += _comparable(word)
        elif i and _is_name(plain, tokens, i, is_mixed=is_mixed):
            found.append(NAME_A)
        else:
            found.append(word)
    return tuple([word for word in found if word not in _ARTICLES] or found)


def contains(inside: tuple[str, ...], phrase: tuple[str, ...]) -> bool:
    """Tell whether `phrase` occurs in `inside` as whole words, in order and without gaps."""
    length = len(phrase)
    return length > 0 and any(
        inside[i : i + length] == phrase for i in range(len(inside) - length + 1)
    )


def _joined(initials: re.Match[str]) -> str:
    return initials.group().replace(".", "")


def _compound(number: re.Match[str]) -> str:
    tens, ones = number.group(1).casefold(), number.group(2).casefold()
    return str(int(_NUMBERS[tens]) + int(_NUMBERS[ones]))


def _is_name(plain: str, tokens: list[re.Match[str]], i: int, *, is_mixed: bool) -> bool:
    """Tell whether the "a" that is token `i`, not the first, names something."""
    between = plain[tokens[i - 1].end() : tokens[i].start()]
    if i == len(tokens) - 1 or tokens[i - 1].group().casefold() in _CLASSES:
        return True
    starts_sentence = any(mark in between for mark in ".!?:;\n")
    return tokens[i].group() == "A" and is_mixed and not starts_sentence


@lru_cache(maxsize=65536)
def _comparable(word: str) -> tuple[str, ...]:
    """Return a word that is no "a" in its comparable form; a number and its unit are two."""
    measured = _NUMBER_UNIT.fullmatch(word)
    if measured:
        return measured.group(1), _SAME_UNIT.get(measured.group(2), measured.group(2))
    for pattern, spelling in _SPELLINGS:
        word = pattern.sub(spelling, word)
    return (_NUMBERS.get(word, _SAME_UNIT.get(word, word)),)

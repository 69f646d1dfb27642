"""Which language words are in: by script, and by the small words that every sentence has.

Enough to tell the languages of PubMed Central apart in a caption; what is too short to tell stays
`und`, and then what the XML declares holds.
"""

import math
import re

UNKNOWN = "und"
_SCRIPTS = (
    ("ja", re.compile("[\u3040-\u30ff]")),
    ("ko", re.compile("[\uac00-\ud7af]")),
    ("zh", re.compile("[\u4e00-\u9fff]")),
    ("ru", re.compile("[\u0400-\u04ff]")),
    ("ar", re.compile("[\u0600-\u06ff]")),
    ("he", re.compile("[\u0590-\u05ff]")),
    ("th", re.compile("[\u0e00-\u0e7f]")),
)
_MANY = 0.2
"""Share of the letters from which a script decides; Greek letters are mathematics."""
_SMALL_WORDS = {
    "en": """the of and in with to for from by is are was were this that after before showing shows
        at on as an or which both left right between during each not no using""",
    "es": """el la los las de del y en con por para un una que se al es son muestra se despu\u00e9s
        antes entre derecho derecha izquierdo izquierda sin su lesi\u00f3n imagen""",
    "pt": """o a os as do da dos das de e em com por para um uma que n\u00e3o no na mostra ap\u00f3s
        entre direito direita esquerdo esquerda sem \u00e9 s\u00e3o imagem les\u00e3o""",
    "fr": """le la les des du de et en avec pour par un une que est sont dans sur au aux
        apr\u00e8s avant droit droite gauche sans l\u00e9sion""",
    "de": """der die das und mit von im in den dem des ein eine einer ist sind bei nach zur zum auf
        f\u00fcr links rechts ohne wird zeigt""",
    "it": """il lo la gli le di del della dei e in con per un una che \u00e8 sono dopo nel nella
        mostra destro destra sinistro sinistra senza""",
    "nl": "de het een en van in met voor na op is zijn bij links rechts toont zonder",
    "pl": "i w z na do po przed oraz jest s\u0105 nie ze strony prawej lewej obraz",
    "tr": "ve bir ile i\u00e7in olan sonra \u00f6nce sol sa\u011f g\u00f6steren olarak",
}
_THREE_LETTERS = """
    eng=en spa=es por=pt fra=fr fre=fr deu=de ger=de ita=it nld=nl dut=nl pol=pl tur=tr rus=ru
    zho=zh chi=zh jpn=ja kor=ko ara=ar heb=he
"""
_THREE = dict(pair.split("=") for pair in _THREE_LETTERS.split())
_CODES_OF: dict[str, list[str]] = {}
for _code, _words in _SMALL_WORDS.items():
    for _word in dict.fromkeys(_words.split()):
        _CODES_OF.setdefault(_word, []).append(_code)
_VOTE = math.lcm(*(len(codes) for codes in _CODES_OF.values()))
"""One vote in whole parts, shared among the languages that have a word."""
_BITS = 16
_PLACES = {code: _BITS * place for place, code in enumerate(_SMALL_WORDS)}
_VOTES = {
    word: sum(_VOTE // len(codes) << _PLACES[code] for code in codes)
    for word, codes in _CODES_OF.items()
}
"""What a small word says. The parts of all languages stand side by side in one number, so that a
text is told by a sum."""
_LOOKED_AT = 300
"""Characters that are enough to tell."""
_OTHER_SCRIPT = re.compile(
    "[\u0400-\u04ff\u0590-\u06ff\u0e00-\u0e7f\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]"
)
_LETTER = re.compile(r"[^\W\d_]")
_ENOUGH = 2.0
"""Votes that the first language needs; a word of several languages is shared among them."""
_AHEAD = 1.5
"""Times that the first must be ahead of the second."""


def detect_language(text: str) -> str:
    """Return a two-letter code, `und` where the words do not tell."""
    text = text[:_LOOKED_AT]
    if not text.isascii() and _OTHER_SCRIPT.search(text) is not None:
        letters = len(_LETTER.findall(text)) or 1
        for code, pattern in _SCRIPTS:
            found = len(pattern.findall(text))
            if found > _MANY * letters or (code in {"ja", "ko"} and found > 2):
                return code
    total = sum(filter(None, map(_VOTES.get, text.lower().split())))
    if not total:
        return UNKNOWN
    votes = [(total >> place & (1 << _BITS) - 1, code) for code, place in _PLACES.items()]
    votes.sort(reverse=True)
    (first, code), (second, _) = votes[:2]
    return code if first >= _ENOUGH * _VOTE and first >= _AHEAD * second else UNKNOWN


def language_code(declared: str) -> str:
    """Return the two letters of an `xml:lang` such as `en-US`, `EN` or `eng`; `und` of none."""
    head = re.split(r"[-_]", declared.strip().lower())[0]
    return _THREE.get(head, head if len(head) == 2 else UNKNOWN)


def tell_language(text: str, declared: str) -> str:
    """Return the language of a text: what its words say, else what is declared of it."""
    found = detect_language(text)
    return found if found != UNKNOWN else language_code(declared)

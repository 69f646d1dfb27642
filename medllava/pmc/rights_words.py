"""Words of licenses and credit lines, in the languages of the archive: patterns without decisions.

`rights` asks them. A wording that nobody foresaw names no license, so its article is left out by
name; what must not happen is that a restriction or another owner is read over.
"""

import re


def _any(*alternatives: str) -> str:
    return "|".join(alternatives)


def _compile(*alternatives: str) -> re.Pattern[str]:
    return re.compile(_any(*alternatives), re.IGNORECASE)


COMMONS = _compile(
    r"creative[\s-]?commons",
    r"\bcc[ -]by\b",
    r"(?-i:\bCC[_-]?BY)(?![a-z])",
    r"\bcc0\b",
    "public domain dedication",
    "\u77e5\u8bc6\u5171\u4eab",
)
"""Speaks of a Creative Commons license."""
LICENSED = re.compile(r"(?i:creative[\s-]?commons)|\bCC[ _-]?BY(?![a-z])|\bCC0\b")
"""The same for captions, where "CC by MRI" is no license."""
ATTRIBUTION = _compile(
    "attribution",
    "atribuci[o\u00f3]n",
    "atribui[c\u00e7][a\u00e3]o",
    "attribuzione",
    "paternit[e\u00e9]",
    "namensnennung",
    "naamsvermelding",
    "uznanie autorstwa",
    "\u7f72\u540d",
    r"\bcc[ _-]?by",
)
CODE_RUN = re.compile(
    r"(?:\bCC|BY|Attribution)((?:[\s_\u2010-\u2013-]*(?:NC|ND|SA))+)(?![a-z])", re.IGNORECASE
)
"""Parts of a code in a wording: "CC BY-NC-ND", "Attribution NC"; the SA of a company is none."""
BOTH_USES = _compile(
    r"\bcommercial\w*,? (?:and|or|as well as) non-?\s?commercial\w*",
    r"\bnon-?\s?commercial\w*,? (?:and|or|as well as) commercial\w*",
)
"""Speaks of non-commercial use and forbids nothing."""

_NO = r"(?:not|no|n[a\u00e3]o|pas|nicht|non)"
RESTRICTIONS = {
    "NC": _compile(
        r"non-?\s?commercial",
        r"\bno[- ]?comercial",
        r"n[a\u00e3]o-?\s?comercial",
        "sin (?:fines|[a\u00e1]nimo) (?:comerci|de lucro)",
        r"sem fins (?:comerc|lucr)",
        r"nicht[- ]?kommerziell",
        r"niet-?\s?commercie",
        "pas d.utilisation commerciale",
        "niekomercyjn",
        r"gayri\s?ticari",
        "\u043d\u0435\u043a\u043e\u043c\u043c\u0435\u0440\u0447",
        "\u975e\u5546[\u4e1a\u696d]|\u975e\u55b6\u5229|\ube44\uc601\ub9ac",
        rf"\bcommercial[^.;]{{0,50}}\b{_NO} (?:be )?(?:permitted|allowed|granted)",
        r"\bcommercial[^.;]{0,50}\b(?:prohibited|forbidden|requires?|needs?|please contact)",
        r"(?:\bno|not|never|without|exclud\w+|except(?: for)?|other than|prohibits?|forbids?)\b"
        r"(?:(?!restrict|includ|even|limit)[^.;]){0,60}\bcommercial",
    ),
    "SA": _compile(
        r"share-?\s?alike",
        r"compartir-?\s?igual",
        r"compartilha-?\s?igual",
        r"partage dans les m[e\u00ea]mes",
        "weitergabe unter gleichen",
        "condividi allo stesso",
        r"gelijk-?\s?delen",
        "na tych samych warunkach",
        "\u76f8\u540c\u65b9\u5f0f\u5171\u4eab|\u7d99\u627f|\ub3d9\uc77c\uc870\uac74",
        r"(?:deriv|adapt|creation|contribution|transform)[^.;]{0,80}"
        r"under (?:the |an )?(?:same|identical)",
    ),
    "ND": _compile(
        r"no-?\s?deriv",
        r"non-?\s?deriv",
        "without deriv",
        r"sin-?\s?(?:obra)?s?-?\s?deriv",
        r"sem-?\s?deriv",
        "pas de modification",
        "keine[- ]?bearbeitung",
        "non opere derivate",
        r"geen-?\s?afgeleide",
        r"bez utwor\w+ zale",
        r"\u7981\u6b62\u6f14\u7ece|\u6539\u5909\u7981\u6b62|\ubcc0\uacbd\s?\uae08\uc9c0",
        r"derivative works?[^.;]{0,30}\b(?:not|prohibited)",
        r"(?:not|never)[^.;]{0,60}\bshare adapted",
        r"not[^.;]{0,25}\b(?:altered|transformed|built upon|changed in any way|modified)",
        r"\b(?:no|without)(?: any)? (?:modification|adaptation|alteration)s?\b",
        r"\bun(?:modified|adapted|altered)\b",
        r"\bverbatim\b",
    ),
}
"""What a wording forbids, by the part of the code that means it."""

_NOT_OF_PATIENTS = (
    r"(?! (?:from |of |by )?(?:the |his |her |their |our |each )?"
    "(?:patient|parent|famil|guardian|subject|participant|individual|ethic|institution|relative))"
)
"""Consent to be shown is no third party's permission."""
_PERMITTED = _any(
    r"with (?:(?!patient|parent|famil|guardian|his\b|her\b|their\b)\w+ ){0,2}permissions?\b"
    + _NOT_OF_PATIENTS,
    r"by (?:kind |special |the )*permission\b" + _NOT_OF_PATIENTS,
    r"with (?:the )?(?:agreement|authori[sz]ation) of (?:the )?(?:publisher|copyright|journal)",
)
_STRONG = _any(
    _PERMITTED,
    "permissions?(?= from| of)" + _NOT_OF_PATIENTS,
    r"permissions? (?:was |were |has been )?(?:obtained|granted)\b" + _NOT_OF_PATIENTS,
    "con (?:el |la )?(?:permiso|autorizaci[o\u00f3]n)"
    r"(?! (?:del?|escrit\w+) (?:l[ao]s? )?(?:pacient|famil|padre|madre))",
    "com (?:a )?(?:permiss[a\u00e3]o|autoriza[c\u00e7][a\u00e3]o)"
    "(?! d[aoe]s? (?:pacient|famil|pais|m[a\u00e3]e))",
    "avec (?:l.aimable |la |l.)?(?:permission|autorisation)"
    "(?! (?:du|de la|des) (?:patient|famil|parent))",
    "mit (?:freundlicher )?(?:genehmigung|erlaubnis)(?! (?:des|der) (?:patient|eltern))",
    "(?:per|su) gentile concessione|con (?:il )?permesso",
    "met toestemming van",
    "za zgod\u0105",
    r"izni(?:yle| ile)\b",
    "\u0441 \u0440\u0430\u0437\u0440\u0435\u0448\u0435\u043d\u0438\u044f",
    "\u7ecf(?!\u60a3\u8005|\u75c5\u4eba).{0,12}(?:\u8bb8\u53ef|\u6388\u6743)",
    "\u8a31\u53ef\u3092\u5f97|\u8a31\u8afe",
    r"courtesy(?: of|[: ]+(?:Dr|Prof|Mr|Mrs|Ms)\b)",
    "cort[e\u00e9]s[i\u00ed]a de",
    "all rights reserved",
    r"licen[cs]e (?:number|no\b)|licensed from|under licen[cs]e from",
    r"not (?:be )?(?:covered|included|licensed|under|part of)\b[^.;]{0,50}"
    r"(?:licen[cs]e|commons|\bcc[ -]by|open access)",
    r"exclu(?:ded|ding|des?)\b[^.;]{0,40}(?:licen[cs]e|commons|\bcc[ -]by)",
)
PERMISSION = re.compile(_STRONG, re.IGNORECASE)
"""Says that someone else gave, or holds, the rights: a license beside it does not help."""
_STOCK = _any(
    "getty images",
    r"istock(?:photo)?\b",
    "shutterstock",
    r"\balamy\b",
    "dreamstime",
    "adobe stock",
    "wikimedia|wikipedia",
    "science photo library|science source",
)
_SOURCE = "source|fuente|fonte|quelle|\u0438\u0441\u0442\u043e\u0447\u043d\u0438\u043a|bron|kaynak"
_NOT_OWN = (
    r"(?!.{0,25}\b(?:authors?|own|our|this (?:study|work|article)|present (?:study|work)|elabora"
    "|survey|data|compiled|calculat|comput|estimat|propi|pr[o\u00f3]pri|autor|auteur|eigene))"
)
_CITED = (
    r"(?=[\[(]|(?-i:[A-Z\u00c0-\u017f])\S+ (?:et al|y cols|e cols)|refs?\b|references?\b|https?:)"
)
"""What follows is another work."""
_ANOTHERS = _any(
    _STRONG,
    _STOCK,
    "\u00a9",
    r"\bcopyright\b",
    r"\(c\) (?:19|20)\d\d",
    r"\b(?:reprinted|reproduced|republished|adapted|redrawn|reused|excerpted)"
    r"(?: (?:and|or) \w+)? (?:from|after)\b",
    rf"\b(?:modified|copied|taken|borrowed) (?:from|after) {_CITED}",
    r"\b(?:figure|image|picture|photo(?:graph)?|illustration|drawing|diagram)s? from " + _CITED,
    r"\b(?:photo|image|picture|figure|illustration)s?[ -]credits?\b|\bcredits?:",
    rf"(?:^|(?<=[.;)\]]\s))(?:{_SOURCE})s?\s?:\s+{_NOT_OWN}",
    r"\b(?:adaptad|reproducid|reproduzid|modificad)[oa]s? d(?:el?|[ao])\b",
    rf"\b(?:tomad|extra[i\u00ed]d|retirad)[oa]s? d(?:el?|[ao]) {_CITED}",
    r"\badapt[e\u00e9]e?s? (?:de|d.apr[e\u00e8]s)\b|\breproduit\w* (?:de|d.apr[e\u00e8]s)\b",
    r"\b(?:adattat|riprodott|modificat|tratt)[oaie] da\b",
    r"\babgedruckt\b|\bnachdruck\b|\b(?:modifiziert|adaptiert) (?:nach|aus)\b",
    r"\b(?:entnommen|\u00fcbernommen) aus\b",
    "\u6539[\u7f16\u7de8]\u81ea|\u5f15\u81ea|\u8f6c\u8f7d|\u8f49\u8f09|\u56fe\u7247\u6765\u6e90",
    "\u7248\u6743\u6240\u6709|\u8ee2\u8f09|\u3088\u308a(?:\u5f15\u7528|\u6539\u5909)",
)
THIRD_PARTY = re.compile(_ANOTHERS, re.IGNORECASE)
"""Says in a caption that the figure may be another's."""
CREDIT = _compile(
    _ANOTHERS,
    r"\b(?:credits?|photo(?:graph)?s? by|courtesy)\b|\bphoto(?:graph)?s?:",
    rf"\b(?:{_SOURCE})s?\s?:?\s+{_NOT_OWN}",
    rf"\b(?:from|after|nach|d.apr[e\u00e8]s|seg[u\u00fa]n) {_CITED}",
)
"""In a line that only says where a figure comes from, less is enough than in a caption."""
GIVEN = _compile(
    rf"\b(?:reprint|reproduc|republish|adapt|redraw|re-?us|us)\w*\b[^.;]{{0,60}}\b(?:{_PERMITTED})",
    r"\bcourtesy of",
)
"""In running text only the plain statement counts that what is shown is used by permission."""

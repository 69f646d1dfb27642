"""Names, dates, numbers and addresses in what was written about a picture.

A careful reader's first look, not a proof: whoever writes reports by hand finds other ways to say
who somebody is.
"""

import re
from collections.abc import Sequence

from medllava.privacy.findings import Finding, Kind

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_NAME = r"[A-Z][a-z'\u00c0-\u024f-]+"
_YEAR, _MONTH_NUMBER, _DAY = r"(?:19|20)\d\d", r"(?:0?[1-9]|1[0-2])", r"(?:0?[1-9]|[12]\d|3[01])"
_ORDINAL = r"\d{1,2}(?:st|nd|rd|th)?"
_PATTERNS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    (Kind.DATE, re.compile(rf"\b{_YEAR}[-./]{_MONTH_NUMBER}[-./]{_DAY}\b")),
    (Kind.DATE, re.compile(rf"\b{_DAY}[-./]{_DAY}[-./](?:{_YEAR}|\d\d)\b")),
    (Kind.DATE, re.compile(rf"\b{_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\b")),
    (Kind.DATE, re.compile(rf"\b{_ORDINAL} (?:of )?{_MONTH},? {_YEAR}\b", re.IGNORECASE)),
    (Kind.DATE, re.compile(rf"\b{_MONTH} {_ORDINAL},? {_YEAR}\b", re.IGNORECASE)),
    (
        Kind.NUMBER,
        re.compile(
            r"\b(?:MRN|PID|UHID|NHS|SSN|case|accession|chart|record|patient|hospital)"
            r"(?: ?(?:number|no\.?|id|#))?[ :#.]{1,3}[A-Z]{0,3}-?\d[\d -]{3,}\d\b",
            re.I,
        ),
    ),
    (Kind.NUMBER, re.compile(r"\b\d{3}-\d{2}-\d{4}\b|(?<![\w.,-])\d{7,}(?![\w.,-]?\d)")),
    (Kind.NAME, re.compile(rf"\b(?:Mr|Mrs|Ms|Miss|Dr|Prof)\.? (?:[A-Z]\. ?)*{_NAME}(?: {_NAME})?")),
    (Kind.NAME, re.compile(r"\b[A-Z][A-Za-z'-]+\^[A-Z][A-Za-z'^ -]*")),
    (
        Kind.NAME,
        re.compile(
            rf"\b(?:[Pp]atient|[Nn]ame|PATIENT|NAME|[Pp]t)(?:'s)?(?: [Nn]ame)?(?: is)?[:=] ?"
            rf"(?:{_NAME}|[A-Z]{{2,}}),?(?: (?:{_NAME}|[A-Z]{{2,}}))*"
        ),
    ),
    (Kind.CONTACT, re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")),
    (
        Kind.CONTACT,
        re.compile(r"(?:\+\d{1,3}[ -]?)?(?:\(\d{2,4}\)|\b\d{3})[ -]\d{3,4}[ -]\d{3,4}\b"),
    ),
)
MASKED = "[removed]"


def find_in_text(text: str, *, where: str = "caption") -> list[Finding]:
    """Return what may tell who somebody is, in reading order, no two of them overlapping."""
    found: list[Finding] = []
    for kind, pattern in _PATTERNS:
        for match in pattern.finditer(text):
            is_known = any(_overlap(finding, match.span()) for finding in found)
            if not is_known:
                found.append(Finding(kind=kind, where=where, span=match.span()))
    return sorted(found, key=lambda finding: finding.span or (0, 0))


def mask_text(text: str, findings: Sequence[Finding]) -> str:
    """Return the text with every finding replaced by `[removed]`."""
    for finding in sorted(findings, key=lambda finding: finding.span or (0, 0), reverse=True):
        if finding.span is not None:
            start, end = finding.span
            text = text[:start] + MASKED + text[end:]
    return text


def _overlap(finding: Finding, span: tuple[int, int]) -> bool:
    return finding.span is not None and finding.span[0] < span[1] and span[0] < finding.span[1]

"""The license report: every license that applies to a publication, and what follows from them.

Code, base parts, data and teachers enter as rows; the strictest row decides the license of the
result, with the reason in words. A combination that forbids publishing becomes a named `Risk`,
which stops the upload until the user takes it on by that name.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medllava.errors import DataError
from medllava.hub.facts import CAPTIONS, ROLES, Data, ModelFacts, Part
from medllava.hub.licenses import (
    FOR_CODE,
    OWN_DATA,
    OWN_WORK,
    UNKNOWN,
    Terms,
    parse_license,
    teacher_terms,
)
from medllava.records import Source

OWN_DATA_RISK = "own-data-public"
"""Stands only against making a repository public."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing that has a license."""

    kind: str
    """code, base, data, source or teacher."""
    what: str
    terms: Terms
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """Why this may not be published as it is."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LicenseReport:
    """All rows, the license that follows, and what stands in the way."""

    rows: tuple[Row, ...]
    terms: Terms
    """Of the result: the strictest row's."""
    reason: str
    risks: tuple[Risk, ...]

    @property
    def published_name(self) -> str:
        """The license of the result, as it is printed."""
        return self.terms.published_name or self.terms.name

    def open_risks(self, accepted: Iterable[str]) -> list[Risk]:
        """Return the risks that the user has not accepted.

        Raises:
            DataError: an accepted name is no risk of this license report.
        """
        names = {risk.name for risk in self.risks}
        for name in accepted:
            if name not in names:
                known = ", ".join(sorted(names)) or "none"
                raise DataError(
                    f"--accept-license-risk {name!r} is no risk of this push. Its risks: {known}."
                )
        return [risk for risk in self.risks if risk.name not in set(accepted)]

    def to_json(self) -> dict[str, Any]:
        """Return the license report as plain JSON values."""
        return {
            "license": self.published_name,
            "hub_license": self.terms.hub_tag or "other",
            "reason": self.reason,
            "rows": [
                {"kind": r.kind, "what": r.what, "license": r.terms.name, "note": r.note}
                for r in self.rows
            ],
            "risks": {risk.name: risk.reason for risk in self.risks},
        }

    def lines(self) -> list[str]:
        """Return the license report as aligned lines for a terminal."""
        width = max((len(row.what) for row in self.rows), default=0)
        lines = ["Licenses that apply:"]
        for row in self.rows:
            note = f"  ({row.note})" if row.note else ""
            lines.append(f"{row.kind:<8} {row.what:<{width}}  {row.terms.name}{note}")
        lines.append(f"Published under: {self.published_name}, because {self.reason}.")
        lines += [f"Risk {risk.name}: {risk.reason}." for risk in self.risks]
        return lines


_CODE_ONLY = "a license for code: check the terms of the pictures in it"


def model_license_report(facts: ModelFacts) -> LicenseReport:
    """Draw up the license report of a model's weights."""
    note = "made the weights, is not in them"
    rows = [Row(kind="code", what="medllava", terms=parse_license("Apache-2.0"), note=note)]
    if facts.start:
        rows.append(Row(kind="base", what=f"start: {facts.start}", terms=UNKNOWN))
    for part in facts.parts:
        rows += _part_rows(part)
    for stage in facts.stages:
        rows += _data_rows(stage.stage, stage.data)
    return _conclude(rows, has_weights=True)


def dataset_license_report(
    licenses: Mapping[str, int], teachers: Mapping[str, int], sources: Iterable[Source]
) -> LicenseReport:
    """Draw up the report of a data set; rows whose license forbids passing on are already out."""
    rows = [
        Row(kind="data", what=f"{count:,} rows", terms=parse_license(name))
        for name, count in sorted(licenses.items())
    ]
    rows += [_source_row(source, is_data=True) for source in sources]
    rows += _teacher_rows(teachers)
    return _conclude(rows, has_weights=False)


def _part_rows(part: Part) -> Iterator[Row]:
    terms = OWN_WORK if part.source == "random" else parse_license(part.license)
    if not terms.is_known and part.sources:
        terms = max((parse_license(s.license) for s in part.sources), key=lambda t: t.rank)
    note = "untrained at the start" if part.source == "random" else terms.note
    yield Row(kind="base", what=f"{ROLES[part.role]}: {part.source}", terms=terms, note=note)
    yield from (_source_row(source) for source in part.sources)


def _data_rows(stage: str, data: Data) -> Iterator[Row]:
    for name, count in sorted(data.licenses.items()):
        yield Row(kind="data", what=f"{stage}: {count:,} records", terms=parse_license(name))
    if not data.licenses:
        used = "records" if data.used is None else f"{data.used:,} records"
        yield Row(kind="data", what=f"{stage}: {used}", terms=UNKNOWN)
    yield from (_source_row(source, is_data=True) for source in data.sources)
    yield from _teacher_rows(data.teachers)


def _source_row(source: Source, *, is_data: bool = False) -> Row:
    """Return a row; a package's license for its code says nothing sure about pictures in it."""
    terms, note = parse_license(source.license), source.note
    if is_data and terms.hub_tag in FOR_CODE:
        note = "; ".join(filter(None, (note, _CODE_ONLY)))
    return Row(kind="source", what=source.title, terms=terms, note=note)


def _teacher_rows(teachers: Mapping[str, int]) -> Iterator[Row]:
    for teacher, count in sorted(teachers.items()):
        if teacher != CAPTIONS:
            terms = teacher_terms(teacher)
            what = f"{teacher or 'unknown'}: {count:,} records"
            yield Row(kind="teacher", what=what, terms=terms, note=terms.note)


def _conclude(rows: Iterable[Row], *, has_weights: bool) -> LicenseReport:
    unique = tuple(dict.fromkeys(rows))
    binding = [row for row in unique if row.kind != "code"] or list(unique)
    strictest = max(binding, key=lambda row: row.terms.rank)
    reason = f"it is the strictest that applies ({strictest.kind} {strictest.what})"
    if not strictest.terms.is_known:
        reason = f"the terms of {strictest.kind} {strictest.what} are not known"
    reasons: dict[str, list[str]] = {}
    for name, text in _iter_risks(binding, strictest.terms) if has_weights else ():
        reasons.setdefault(name, []).append(text)
    risks = (Risk(name=name, reason="; ".join(texts)) for name, texts in reasons.items())
    return LicenseReport(rows=unique, terms=strictest.terms, reason=reason, risks=tuple(risks))


def _iter_risks(rows: Iterable[Row], result: Terms) -> Iterator[tuple[str, str]]:
    """Yield (name, reason) for everything that forbids publishing weights."""
    for row in rows:
        terms, under = row.terms, f"{row.what} is under {row.terms.name}"
        if row.kind == "base" and not terms.is_known:
            yield "base-license-unknown", f"no known license lets you pass on {row.what}"
        elif row.kind == "base" and not (terms.may_redistribute and terms.may_derive):
            yield "base-no-redistribution", f"{under}, which forbids passing on changed weights"
        elif row.kind in {"data", "source"} and terms.is_known and not terms.may_derive:
            yield "data-no-derivatives", f"{under}, which forbids adapted works"
        if row.kind == "data" and terms is OWN_DATA:
            yield OWN_DATA_RISK, f"{under}, so weights that learned from it are not for everyone"
        if terms.is_share_alike and result.rank > terms.rank and not result.is_share_alike:
            yield "share-alike-conflict", f"{under}, whose terms the stricter {result.name} breaks"

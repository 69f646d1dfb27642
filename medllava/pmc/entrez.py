"""NCBI's own services: search in PubMed Central, and PMIDs or DOIs to PMCIDs.

They allow three requests a second, ten with a key (`NCBI_API_KEY` in the environment), and answer
some refusals with status 200, so every body is checked. A search returns 9,999 ids at most; date
ranges are halved until each stays below that.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any, TypeVar

from medllava.errors import DataError
from medllava.pmc.config import FetchConfig
from medllava.pmc.state import Miss
from medllava.pmc.transport import Pacer, RetryPolicy, Transport

T = TypeVar("T")
MAX_IDS = 9_999
"""A search gives no more, whatever it found."""
_FIRST_DAY = date(1950, 1, 1)
_CONVERTER_BATCH = 200
_LICENSE_FILTERS = {
    "CC0": "cc0_license",
    "CC BY": "cc_by_license",
    "CC BY-SA": "cc_by-sa_license",
    "CC BY-ND": "cc_by-nd_license",
    "CC BY-NC": "cc_by-nc_license",
    "CC BY-NC-SA": "cc_by-nc-sa_license",
    "CC BY-NC-ND": "cc_by-nc-nd_license",
}
_PMCID = re.compile(r"(?:PMC)+0*([1-9]\d{0,11})(?:\.\d+)?", re.IGNORECASE)
_PMID = re.compile(r"[1-9]\d{0,9}")
_AROUND_IDS = re.compile(r"[,\"'\ufeff]|;(?=\s|$|PMC|10\.\d{4}|\d+(?:[;\s]|$))")
"""What spreadsheets put around ids, the mark of UTF-8 too; old DOIs hold a semicolon."""
_BEFORE_ID = re.compile(
    r"^(?:https?://(?:dx\.)?doi\.org/|doi:|pmc?id:"
    r"|https?://(?:www\.)?(?:pmc\.|pubmed\.)?ncbi\.nlm\.nih\.gov/(?:(?:pmc/)?articles/|pubmed/)?)",
    re.IGNORECASE,
)
_DOI = re.compile(r"10\.\d{4,9}/\S+")


class Entrez:
    """The search and the converter, at a polite pace."""

    def __init__(self, config: FetchConfig) -> None:
        """Take addresses and contact from the configuration, the key from the environment."""
        self._key = os.environ.get("NCBI_API_KEY", "")
        pacer = Pacer(10 if self._key else 3)
        retry = RetryPolicy(
            base_seconds=config.retry_seconds, timeout_seconds=config.timeout_seconds
        )
        self._search = Transport(config.entrez_url, email=config.email, retry=retry, pacer=pacer)
        self._converter = Transport(
            config.converter_url, email=config.email, retry=retry, pacer=pacer
        )
        self._contact = {"tool": "medllava"} | ({"email": config.email} if config.email else {})

    def iter_pmcids(self, query: str, licenses: Sequence[str]) -> Iterator[str]:
        """Yield the PMCIDs that a search finds, license filter added.

        Raises:
            DataError: one day alone holds more than a search returns.
            RemoteError: no answer after retries.
        """
        today = datetime.now(UTC).date()
        yield from self._iter_range(build_term(query, licenses), _FIRST_DAY, today)

    def _iter_range(self, term: str, first: date, last: date) -> Iterator[str]:
        dated = f"({term}) AND {first:%Y/%m/%d}:{last:%Y/%m/%d}[pmcrdat]"
        result = self._esearch(dated)
        count = int(result["count"])
        if count <= MAX_IDS:
            yield from (f"PMC{number}" for number in result["idlist"])
        elif first == last:
            raise DataError(
                f"{count:,} articles of one day, more than a search returns: {first}."
                " Narrow --query, or take the inventory with --sample."
            )
        else:
            middle = first + timedelta(days=(last - first).days // 2)
            yield from self._iter_range(term, first, middle)
            yield from self._iter_range(term, middle + timedelta(days=1), last)

    def _esearch(self, term: str) -> dict[str, Any]:
        params = {"db": "pmc", "term": term, "retmode": "json", "retmax": str(MAX_IDS)}
        params |= self._contact | ({"api_key": self._key} if self._key else {})
        body = self._search.get("esearch.fcgi", params=params, check=_search_fault, is_object=False)
        result: dict[str, Any] = json.loads(body)["esearchresult"]
        return result

    def iter_converted(self, names: Iterable[str]) -> Iterator[str | Miss]:
        """Yield the PMCID of each PMCID, PMID or DOI, or why there is none."""
        waiting: dict[str, list[str]] = {"pmid": [], "doi": []}
        for name in names:
            pmcid = _PMCID.fullmatch(name)
            if pmcid:
                yield f"PMC{pmcid[1]}"
                continue
            kind = "pmid" if _PMID.fullmatch(name) else "doi" if _DOI.fullmatch(name) else ""
            if not kind:
                yield Miss(key=name, reason="bad-id", detail="neither PMCID, PMID nor DOI")
                continue
            waiting[kind].append(name)
            if len(waiting[kind]) == _CONVERTER_BATCH:
                yield from self._convert(kind, waiting[kind])
                waiting[kind] = []
        for kind, rest in waiting.items():
            if rest:
                yield from self._convert(kind, rest)

    def _convert(self, kind: str, names: Sequence[str]) -> Iterator[str | Miss]:
        params = {"ids": ",".join(names), "idtype": kind, "format": "json"} | self._contact
        num_asked = len(set(map(str.lower, names)))
        body = self._converter.get(
            "",
            params=params,
            check=lambda body: _converter_fault(body, num_asked),
            is_object=False,
        )
        found: dict[str, str] = {}
        for record in json.loads(body)["records"]:
            pmcid = _PMCID.fullmatch(str(record.get("pmcid", "")))
            if pmcid:
                asked = str(record.get("requested-id") or record.get(kind) or "")
                found[asked.lower()] = f"PMC{pmcid[1]}"
        for name in names:
            if name.lower() in found:
                yield found[name.lower()]
            else:
                yield Miss(key=name, reason="not-in-pmc", detail=f"no PMCID for this {kind}")


def build_term(query: str, licenses: Sequence[str]) -> str:
    """Return a query restricted to open access and, unless any will do, to licenses.

    Raises:
        DataError: a license has no filter in the search.
    """
    term = f"({query}) AND open_access[filter]"
    if "any" in licenses:
        return term
    unknown = [code for code in licenses if code not in _LICENSE_FILTERS]
    if unknown:
        raise DataError(
            f"no search filter for license {unknown[0]!r}. Use {', '.join(_LICENSE_FILTERS)}."
        )
    filters = " OR ".join(f"{_LICENSE_FILTERS[code]}[filter]" for code in licenses)
    return f"{term} AND ({filters})"


def iter_lines(lines: Iterable[str]) -> Iterator[str]:
    """Yield ids from lines of text, one or several a line, without comments and addresses."""
    for line in lines:
        for name in _AROUND_IDS.sub(" ", line.partition("#")[0]).split():
            yield _BEFORE_ID.sub("", name).rstrip("/")


def iter_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of at most `size` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _search_fault(body: bytes) -> str | None:
    """Say why a body is not a search result; refusals come with status 200."""
    try:
        result = json.loads(body)["esearchresult"]
        count, listed = int(result["count"]), len(result["idlist"])
    except (ValueError, KeyError, TypeError):
        return f"not a search result but {body[:120]!r}"
    if result.get("ERROR"):
        return f"search error {result['ERROR']!r}"
    return None if count > MAX_IDS or listed >= count else f"{listed:,} of {count:,} ids"


def _converter_fault(body: bytes, num_asked: int) -> str | None:
    """Say why a body does not answer for every id: one that is unknown has a record as well."""
    try:
        records = json.loads(body)["records"]
    except (ValueError, KeyError, TypeError):
        return f"not a converter's answer but {body[:120]!r}"
    if not isinstance(records, list):
        return "records are not a list"
    return None if len(records) >= num_asked else f"{len(records):,} records for {num_asked:,} ids"

"""What the bucket holds: versions of an article by prefix, and the daily inventory of all."""

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from medllava.errors import DataError, RemoteError
from medllava.pmc.archive import KEY, ObjectError, json_check, md5_check
from medllava.pmc.state import Item
from medllava.pmc.transport import Transport
from medllava.pmc.xml import XmlError, child, parse_xml

INVENTORY = "inventory-reports/pmc-oa-opendata/metadata/"
_DATED = re.compile(re.escape(INVENTORY) + r"(\d{4}-\d\d-\d\d)T\d\d-\d\dZ/")
_PART = re.compile(re.escape(INVENTORY) + r"data/[\w.-]+\.csv\.gz")
_METADATA_KEY = re.compile(rf"metadata/({KEY.pattern})\.json")
_SCHEMA = ["Bucket", "Key", "LastModifiedDate", "ETag"]
_MAX_PAGES = 1000


def list_versions(transport: Transport, pmcid: str) -> list[Item]:
    """Return the versions of an article that the bucket holds; empty for an unknown PMCID."""
    found = []
    # The dot keeps PMC123 from matching PMC1234.
    for prefix in iter_prefixes(transport, f"{pmcid}."):
        match = KEY.fullmatch(prefix.rstrip("/"))
        if match and match[1] == pmcid:
            found.append(Item(name=match[0], version=int(match[2])))
    return found


def iter_prefixes(transport: Transport, prefix: str) -> Iterator[str]:
    """Yield the folders below a prefix, page by page."""
    token = ""
    for _ in range(_MAX_PAGES):
        params = {"list-type": "2", "delimiter": "/", "prefix": prefix}
        if token:
            params["continuation-token"] = token
        root = parse_xml(transport.get("", params=params, check=_listing_fault, is_object=False))
        for common in root.iterchildren("{*}CommonPrefixes"):
            yield (getattr(child(common, "Prefix"), "text", "") or "").strip()
        next_token = child(root, "NextContinuationToken")
        if next_token is None or not next_token.text:
            if (getattr(child(root, "IsTruncated"), "text", "") or "").strip() == "true":
                raise RemoteError(
                    f"the listing of {prefix!r} breaks off and names no next page."
                    " Check --base-url: a copy of the bucket must speak version 2 of the listing."
                )
            return
        token = next_token.text


def _listing_fault(body: bytes) -> str | None:
    if b"<ListBucketResult" not in body[:1000]:
        return f"not a listing but {body[:60]!r}"
    try:
        parse_xml(body)
    except XmlError as error:
        return error.detail
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """One dated snapshot of all metadata objects."""

    date: str
    parts: tuple[tuple[str, str], ...]
    """Key and md5 of each CSV part."""


def find_inventory(transport: Transport) -> Inventory:
    """Return the newest complete inventory; the newest folder may still lack its manifest.

    Raises:
        RemoteError: there is none.
    """
    folders = sorted(
        (prefix for prefix in iter_prefixes(transport, INVENTORY) if _DATED.fullmatch(prefix)),
        reverse=True,
    )
    for folder in folders:
        try:
            data = transport.get(f"{folder}manifest.json", check=json_check)
        except ObjectError:
            continue
        match = _DATED.fullmatch(folder)
        return _parse_manifest(data, date=match[1] if match else "")
    raise RemoteError(
        "the bucket holds no inventory with a manifest. Check --base-url, or select by --ids."
    )


def iter_inventory(transport: Transport, inventory: Inventory) -> Iterator[Item]:
    """Yield every article version of an inventory, a part at a time."""
    for key, md5 in inventory.parts:
        data = transport.get(key, check=md5_check(md5), is_object=False)
        with gzip.open(io.BytesIO(data), "rt", encoding="utf-8", newline="") as lines:
            for row in csv.reader(lines):
                match = _METADATA_KEY.fullmatch(row[1]) if len(row) == len(_SCHEMA) else None
                if match:
                    yield Item(name=match[1], version=int(match[3]), etag=row[3])


def _parse_manifest(data: bytes, *, date: str) -> Inventory:
    values = json.loads(data)
    try:
        schema = [name.strip() for name in values["fileSchema"].split(",")]
        parts = tuple((file["key"], file["MD5checksum"]) for file in values["files"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"inventory manifest of {date} lacks {error}. Try again tomorrow."
        ) from None
    if schema != _SCHEMA or not all(_PART.fullmatch(key) for key, _ in parts):
        raise DataError(
            f"inventory manifest of {date} has another form (columns {schema}). Update medllava."
        )
    return Inventory(date=date, parts=parts)

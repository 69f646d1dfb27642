"""Which part of the data an article belongs to: named in a file, else by a seeded hash.

All figures of an article, whatever its version, go the same way, so no figure of a tested article
is ever trained on.
"""

import csv
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from medllava.errors import DataError
from medllava.pmc.config import FetchConfig
from medllava.records import Split

EXCLUDE = "exclude"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """A function from PMCID to split."""

    validation_fraction: float
    test_fraction: float
    seed: int
    named: Mapping[str, Split | None] = field(default_factory=dict)
    """Articles that a file assigns; None drops the article."""

    @classmethod
    def from_config(cls, config: FetchConfig) -> Self:
        """Build the rule, reading the split file."""
        return cls(
            validation_fraction=config.validation_fraction,
            test_fraction=config.test_fraction,
            seed=config.seed,
            named={} if config.split_file is None else load_split_file(config.split_file),
        )

    def split_of(self, pmcid: str) -> Split | None:
        """Return the split of an article, None if it is to be left out."""
        if pmcid in self.named:
            return self.named[pmcid]
        digest = hashlib.blake2b(f"{self.seed}:{pmcid}".encode(), digest_size=8).digest()
        place = int.from_bytes(digest, "big") / 2**64
        if place < self.test_fraction:
            return Split.TEST
        if place < self.test_fraction + self.validation_fraction:
            return Split.VALIDATION
        return Split.TRAIN


def load_split_file(path: Path) -> dict[str, Split | None]:
    """Read `pmcid,split` from CSV, or objects with these keys from JSONL.

    `split` is train, validation, test, or `exclude` for articles that must not appear at all.

    Raises:
        DataError: absent, or a line says something else; names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"split file cannot be read ({error}): {path}. Check the path.") from None
    named: dict[str, Split | None] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (number == 1 and line.lower().replace(" ", "").startswith("pmcid,")):
            continue
        pmcid, split = _parse_line(line, where=f"{path}, line {number}")
        if named.get(pmcid, split) != split:
            raise DataError(f"{pmcid} is in two splits: {path}, line {number}. Keep one line.")
        named[pmcid] = split
    return named


def _parse_line(line: str, *, where: str) -> tuple[str, Split | None]:
    try:
        if line.lstrip().startswith("{"):
            value = json.loads(line)
            fields = [str(value["pmcid"]), str(value["split"])]
        else:
            fields = [part.strip() for part in next(csv.reader([line]))]
        pmcid, split = fields
        return pmcid.partition(".")[0] if pmcid.startswith("PMC") else pmcid, (
            None if split == EXCLUDE else Split(split)
        )
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"expected a PMCID and train, validation, test or exclude, got {line!r:.80}: {where}."
        ) from None

"""A file of records to an index in memory: ids, labels, lengths and image paths, no pixels.

Records enter once, in order; what cannot be used is dropped here, counted and kept by reason. The
index is a few flat arrays, so that worker processes share it and half a million records fit in some
hundred megabytes. `packing` turns it into batches, and `PixelReader` reads the images they need.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medllava.data.dropped import Dropped, DropReason
from medllava.data.layouts.conversation import REPAIRS
from medllava.data.token_store import Encoding, encode_chunks
from medllava.data.tokenize import EncodedText, check_placeholders
from medllava.errors import DataError
from medllava.images.load import load_image
from medllava.progress import Progress
from medllava.records import InstructionRecord
from medllava.store import atomic_path, contained_path

_ARRAYS = ("ids", "supervised", "starts", "image_starts", "origins")
_COUNTED = ("license", "modality", "teacher", "stage")
_CHUNK = 1000
_READERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageScreen:
    """How the images of records are tried before a run is laid out."""

    open_image: Callable[[Path], object] = load_image
    """Decodes an image; a record whose image it refuses is dropped."""
    lost_before: frozenset[int] | None = None
    """Of a run that goes on, the items of this source, by number, that it dropped for their images
    when it began: the same ones are dropped now, whatever has become of the files since."""

    def try_image(self, path: Path) -> str:
        """Return what is wrong with an image, nothing if it opens.

        Raises:
            SetupError: an extra is missing, which is no damage.
        """
        try:
            self.open_image(path)
        except DataError as error:
            return str(error)
        return ""


@dataclass(frozen=True, kw_only=True)
class ExampleIndex:
    """All usable records of a file; example i owns ids[starts[i]:starts[i + 1]]."""

    ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    """As long as `ids`: what the model learns to say."""
    starts: NDArray[np.int64]
    image_starts: NDArray[np.int64]
    images: tuple[Path, ...]
    record_ids: tuple[str, ...]
    image_tokens: int
    shortened: int = 0
    dropped: tuple[Dropped, ...] = ()
    kept_pixels: tuple[Path, ...] = ()
    """Images whose resized pixels were kept while indexing, in the order of their places."""
    facts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Used records counted by license, modality, teacher, and by what was put right in them."""
    origins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Of several sources, the number of the one that each example is from; else empty."""
    repeated_ids: int = 0
    """Used records whose id another one before them has."""

    def __len__(self) -> int:
        """Return the number of usable examples."""
        return len(self.record_ids)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every example, images counted in full."""
        lengths: NDArray[np.int64] = np.diff(self.starts)
        return lengths + np.diff(self.image_starts) * (self.image_tokens - 1)  # type: ignore[no-any-return]

    @cached_property
    def supervised_counts(self) -> NDArray[np.int64]:
        """Supervised tokens of every example."""
        return np.add.reduceat(self.supervised, self.starts[:-1], dtype=np.int64)

    @property
    def drop_counts(self) -> dict[str, int]:
        """Dropped records by reason."""
        return dict(Counter(drop.reason.value for drop in self.dropped))

    def images_of(self, example: int) -> tuple[Path, ...]:
        """Return the image files of one example, in reading order."""
        return self.images[self.image_starts[example] : self.image_starts[example + 1]]

    def fingerprint(self) -> str:
        """Return a digest of everything that training sees, the pixels excepted."""
        digest = hashlib.sha256()
        for array in (self.ids, self.supervised, self.starts, self.image_starts):
            digest.update(np.ascontiguousarray(array).tobytes())
        for path in self.images:
            digest.update(path.name.encode())
        if len(self.origins):
            digest.update(np.ascontiguousarray(self.origins).tobytes())
        return digest.hexdigest()


def save_index(index: ExampleIndex, path: Path) -> None:
    """Write an index for other processes of the same run; appears whole or not at all."""
    texts = {
        "images": [str(image) for image in index.images],
        "record_ids": index.record_ids,
        "kept_pixels": [str(image) for image in index.kept_pixels],
        "dropped": list(iter_dropped(index)),
        "facts": index.facts,
        "image_tokens": index.image_tokens,
        "shortened": index.shortened,
        "repeated_ids": index.repeated_ids,
    }
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez(
            handle,
            **{name: getattr(index, name) for name in _ARRAYS},
            texts=np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8),
        )


def load_index(path: Path) -> ExampleIndex:
    """Read what `save_index` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in _ARRAYS}
        texts = json.loads(stored["texts"].tobytes())
    return ExampleIndex(
        **arrays,
        images=tuple(Path(image) for image in texts["images"]),
        record_ids=tuple(texts["record_ids"]),
        kept_pixels=tuple(Path(image) for image in texts["kept_pixels"]),
        dropped=tuple(
            Dropped(**{**values, "reason": DropReason(values["reason"])})
            for values in texts["dropped"]
        ),
        facts=texts["facts"],
        image_tokens=texts["image_tokens"],
        shortened=texts["shortened"],
        repeated_ids=texts["repeated_ids"],
    )


def build_index(
    records: Iterable[InstructionRecord | Dropped],
    processor: Any,  # noqa: ANN401 - any processor with a fast tokenizer
    *,
    image_root: Path,
    image_tokens: int,
    max_length: int,
    progress: Progress,
    screen: ImageScreen | None = None,
) -> ExampleIndex:
    """Read, check and tokenize all records.

    Args:
        records: in the order of their file, with those that reading had to drop.
        processor: of the model that will be trained.
        image_root: folder that the records' image paths are relative to.
        image_tokens: tokens of one image.
        max_length: longest example.
        progress: told of every chunk.
        screen: how images are tried; unset decodes each one.

    Raises:
        DataError: no record is usable.
    """
    builder = _Builder(image_tokens=image_tokens, images=screen or ImageScreen())
    encoding = Encoding(processor=processor, image_tokens=image_tokens, max_length=max_length)
    progress.start("read records")
    with ThreadPoolExecutor(_READERS) as pool:
        chunks = _read_chunks(records, image_root, pool)
        for checked, texts in encode_chunks(chunks, encoding, progress):
            kept = builder.screen(checked)
            encoded = dict(zip((one.item for one in kept), texts, strict=True))
            for one in builder.open_images(kept, pool):
                builder.add(one, encoded[one.item])
            progress.advance(len(checked))
    index = builder.finish()
    if index.repeated_ids:
        progress.note(f"{index.repeated_ids:,} records have an id that another one has too")
    return index


def join_indexes(indexes: Sequence[ExampleIndex]) -> ExampleIndex:
    """Put the indexes of several sources behind one another; `origins` tells them apart."""
    facts: dict[str, Counter[str]] = {}
    for index in indexes:
        for name, counts in index.facts.items():
            facts.setdefault(name, Counter()).update(counts)
    record_ids = tuple(name for index in indexes for name in index.record_ids)
    return ExampleIndex(
        ids=np.concatenate([index.ids for index in indexes]),
        supervised=np.concatenate([index.supervised for index in indexes]),
        starts=_cumulative([int(n) for index in indexes for n in np.diff(index.starts)]),
        image_starts=_cumulative(
            [int(n) for index in indexes for n in np.diff(index.image_starts)]
        ),
        images=tuple(path for index in indexes for path in index.images),
        record_ids=record_ids,
        image_tokens=indexes[0].image_tokens,
        shortened=sum(index.shortened for index in indexes),
        dropped=tuple(
            replace(drop, source=number)
            for number, index in enumerate(indexes)
            for drop in index.dropped
        ),
        facts={name: dict(counts) for name, counts in facts.items()},
        origins=np.repeat(np.arange(len(indexes)), [len(index) for index in indexes]),
        repeated_ids=len(record_ids) - len(set(record_ids)),
    )


def _read_chunks(
    records: Iterable[InstructionRecord | Dropped], image_root: Path, pool: ThreadPoolExecutor
) -> Iterator[tuple[list["_Checked | Dropped"], list[InstructionRecord]]]:
    """Yield what checking says of so many records, and those of them that can be tokenized."""
    numbered = enumerate(records, start=1)
    while chunk := list(islice(numbered, _CHUNK)):
        checked = list(pool.map(lambda one: _check(one[0], one[1], image_root), chunk))
        yield checked, [one.record for one in checked if isinstance(one, _Checked)]


@dataclass(frozen=True, slots=True)
class _Checked:
    """A record that can be tokenized."""

    item: int
    record: InstructionRecord
    paths: list[Path]


class _Builder:
    """Grows the lists that become an `ExampleIndex`."""

    def __init__(self, *, image_tokens: int, images: ImageScreen) -> None:
        self.image_tokens = image_tokens
        self.screening = images
        self.ids: list[NDArray[np.int32]] = []
        self.supervised: list[NDArray[np.bool_]] = []
        self.image_counts: list[int] = []
        self.images: list[Path] = []
        self.record_ids: list[str] = []
        self.shortened = 0
        self.dropped: list[Dropped] = []
        self.refused: dict[Path, str] = {}
        """Images that were opened, and what was wrong with each; empty where nothing was."""
        self.facts: dict[str, Counter[str]] = {name: Counter() for name in _COUNTED}
        self.repairs: Counter[str] = Counter()

    def screen(self, checked: Iterable[_Checked | Dropped]) -> list[_Checked]:
        """Keep the records that can be tokenized; note the others."""
        kept: list[_Checked] = []
        for outcome in checked:
            if isinstance(outcome, Dropped):
                self.dropped.append(outcome)
            else:
                kept.append(outcome)
        return kept

    def open_images(self, kept: list[_Checked], pool: ThreadPoolExecutor) -> list[_Checked]:
        """Decode the images not seen before; keep the records whose images all can be read.

        A header that can be read says nothing of the body, and a damaged body would otherwise end
        the run at the step that needs it.
        """
        new = list(dict.fromkeys(p for one in kept for p in one.paths if p not in self.refused))
        refusals = pool.map(self.screening.try_image, new)
        self.refused.update(zip(new, refusals, strict=True))
        usable = []
        for one in kept:
            wrong = "; ".join(self.refused[path] for path in one.paths if self.refused[path])
            if self.screening.lost_before is not None:
                is_lost = one.item in self.screening.lost_before
                wrong = (wrong or "it was so when the run began") if is_lost else ""
            if wrong:
                is_there = all(_is_file(path) for path in one.paths)
                reason = DropReason.UNREADABLE_IMAGE if is_there else DropReason.MISSING_IMAGE
                name = one.record.record_id
                self.dropped.append(
                    Dropped(record_id=name, reason=reason, detail=wrong, item=one.item)
                )
            else:
                usable.append(one)
        return usable

    def add(self, one: _Checked, text: EncodedText | Dropped) -> None:
        """Take one tokenized record, or note why not."""
        record, paths = one.record, one.paths
        if isinstance(text, Dropped):
            self.dropped.append(replace(text, item=one.item))
            return
        self.ids.append(text.input_ids)
        self.supervised.append(text.supervised)
        self.image_counts.append(len(paths))
        self.images += paths
        self.record_ids.append(record.record_id)
        self.shortened += text.shortened
        for name, counter in self.facts.items():
            counter[str(getattr(record, name) or "unknown")] += 1
        self.repairs.update(record.provenance.get(REPAIRS, ()))

    def finish(self) -> ExampleIndex:
        """Return the index.

        Raises:
            DataError: nothing is usable.
        """
        if not self.ids:
            reasons = Counter(drop.reason.value for drop in self.dropped)
            counted = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            first = f"; the first is {self.dropped[0].describe()}" if self.dropped else ""
            raise DataError(
                f"no usable record: {counted or 'no records, the file is empty'}{first}. "
                "Check --data and --image-dir."
            )
        return ExampleIndex(
            ids=np.concatenate(self.ids),
            supervised=np.concatenate(self.supervised),
            starts=_cumulative([len(ids) for ids in self.ids]),
            image_starts=_cumulative(self.image_counts),
            images=tuple(self.images),
            record_ids=tuple(self.record_ids),
            image_tokens=self.image_tokens,
            shortened=self.shortened,
            dropped=tuple(self.dropped),
            facts={name: dict(counter) for name, counter in self.facts.items()}
            | ({"repair": dict(self.repairs)} if self.repairs else {}),
            repeated_ids=len(self.record_ids) - len(set(self.record_ids)),
        )


def iter_dropped(index: ExampleIndex) -> Iterator[dict[str, Any]]:
    """Yield what was dropped as JSON objects, in file order by kind of check."""
    for drop in index.dropped:
        yield asdict(drop) | {"reason": drop.reason.value}


def _check(item: int, record: InstructionRecord | Dropped, image_root: Path) -> _Checked | Dropped:
    """Return the record with its image files, or why it cannot be used."""
    if isinstance(record, Dropped):
        return replace(record, item=item)
    name = record.record_id
    if not check_placeholders(record):
        return Dropped(record_id=name, reason=DropReason.PLACEHOLDERS, item=item)
    paths = []
    for image in record.images:
        try:
            path = contained_path(image_root, image)
        except (DataError, OSError, ValueError):  # ".." and what no file system takes for a name
            return Dropped(record_id=name, reason=DropReason.BAD_PATH, detail=image, item=item)
        paths.append(path)
    return _Checked(item, record, paths)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the file system
        return False


def _cumulative(counts: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)

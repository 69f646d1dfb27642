"""Damaged inputs for every reader: each gives a result or an error of the project's own.

A case is a good input with a few mutations: bits flipped, a piece cut out, doubled, moved or
replaced by something hostile. Anything but a `MedllavaError`, or more than `SLOWEST` seconds, is a
finding; its input is written to runs/chaos beside the traceback.
"""

import faulthandler
import gzip
import io
import json
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from medllava.data.sources import iter_instruction_records
from medllava.errors import MedllavaError
from medllava.images.load import load_image
from medllava.instruct.parse import parse_conversation
from medllava.pmc.jats import read_article
from medllava.pmc.panel_captions import split_caption
from medllava.pmc.xml import parse_article
from medllava.recipe import load_recipe, shipped_recipes
from medllava.records import AnswerType, Question
from medllava.score.closed import closed_hit

SLOWEST = 10.0
"""Seconds that one damaged input may take."""
_HOSTILE = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"]]>", b"<![CDATA[", b"&amp;", b"&xxe;", b"\"", b"'",
    b"{", b"}", b"[", b"]", b"null", b"NaN", b"-1", b"1e999", b"99999999999999999999",
    b"<image>", b"<|im_end|>", b"</think>", "\u202e".encode(), "\u0000".encode(), b"\x1b]0;x\x07",
    b"<fig>", b"</fig>", b"<graphic/>", b"../../etc", b"=", b"[[a]]", b"\r", b"\xed\xa0\x80",
)  # fmt: skip


@dataclass(slots=True)
class Findings:
    """What came of the cases of one reader."""

    reader: str
    cases: int = 0
    read: int = 0
    refused: int = 0
    slowest: float = 0.0
    broken: list[str] = field(default_factory=list)


def print_fuzz(folder: Path, *, cases: int, seed: int) -> int:
    """Print one row a reader; return 1 where an input broke one."""
    rows = run_fuzz(folder, cases=cases, seed=seed, keep=Path("runs/chaos"))
    print(f"{'reader':<18} {'cases':>6} {'read':>6} {'refused':>8} {'slowest':>8}  broken")
    for row in rows:
        broken = "; ".join(row.broken) or "none"
        print(
            f"{row.reader:<18} {row.cases:>6} {row.read:>6} {row.refused:>8}"
            f" {row.slowest:>7.2f}s  {broken}"
        )
    return int(any(row.broken for row in rows))


def run_fuzz(folder: Path, *, cases: int, seed: int, keep: Path | None = None) -> list[Findings]:
    """Give each reader its share of `cases` damaged inputs.

    Args:
        folder: for files; emptied by the caller.
        cases: over all readers.
        seed: of every choice.
        keep: folder for inputs that broke a reader.
    """
    readers = _readers(folder)
    rows = []
    for number, (name, (seeds, read)) in enumerate(sorted(readers.items())):
        rng = random.Random(f"{seed}/{name}")
        share = cases // len(readers) + (number < cases % len(readers))
        rows.append(_fuzz_reader(name, seeds, read, rng, share, keep))
    return rows


def _fuzz_reader(
    name: str,
    seeds: Sequence[bytes],
    read: Callable[[bytes], object],
    rng: random.Random,
    cases: int,
    keep: Path | None,
) -> Findings:
    found = Findings(name)
    kinds: Counter[str] = Counter()
    for number in range(cases):
        data = mutate(rng.choice(seeds), rng)
        found.cases += 1
        started = time.monotonic()
        faulthandler.dump_traceback_later(20 * SLOWEST, exit=True)
        try:
            read(data)
            found.read += 1
        except MedllavaError:
            found.refused += 1
        except Exception as error:  # noqa: BLE001 - a finding is anything else
            where = traceback.extract_tb(error.__traceback__)[-1]
            kinds[f"{type(error).__name__} in {where.name}"] += 1
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{name}-{number}.bin").write_bytes(data)
                (keep / f"{name}-{number}.txt").write_text(traceback.format_exc())
        finally:
            faulthandler.cancel_dump_traceback_later()
        seconds = time.monotonic() - started
        found.slowest = max(found.slowest, seconds)
        if seconds > SLOWEST:
            kinds[f"took {seconds:.0f} s"] += 1
    found.broken = [f"{kind} x {count}" for kind, count in kinds.most_common()]
    return found


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with one to six mutations."""
    pieces = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(pieces) + 1)
        length = min(rng.choice((1, 1, 2, 4, 16, 200)), len(pieces) - at)
        kind = rng.randrange(6)
        if kind == 0 and pieces:
            pieces[min(at, len(pieces) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del pieces[at : at + length]
        elif kind == 2:
            pieces[at:at] = pieces[at : at + length] * rng.choice((1, 2, 50))
        elif kind == 3:
            pieces[at : at + length] = rng.choice(_HOSTILE)
        elif kind == 4:
            pieces[at : at + length] = rng.randbytes(length)
        elif rng.random() < 0.2:
            del pieces[at:]
    return bytes(pieces)


def _readers(folder: Path) -> dict[str, tuple[Sequence[bytes], Callable[[bytes], object]]]:
    """Return good inputs and the function that reads them, by name."""
    return {
        "article XML": (_articles(), lambda data: read_article(parse_article(data))),
        "pictures": (_pictures(), load_image),
        "instruction JSON": (_conversations(), lambda data: _read_records(folder, data)),
        "replies": (_replies(), _read_reply),
        "recipes": (_recipes(), lambda data: _read_recipe(folder, data)),
    }


def _read_records(folder: Path, data: bytes) -> int:
    name = "data.json.gz" if data[:2] == b"\x1f\x8b" else "data.json"
    path = folder / (name if data[:1] in b"[\x1f" else "data.jsonl")
    path.write_bytes(data)
    return sum(1 for _ in iter_instruction_records(path))


def _read_recipe(folder: Path, data: bytes) -> object:
    path = folder / "recipe.toml"
    path.write_bytes(data)
    return load_recipe(str(path))


def _read_reply(data: bytes) -> None:
    text = data.decode("utf-8", errors="replace")
    parse_conversation(text)
    split_caption(text)
    for question in _QUESTIONS:
        closed_hit(question, text)


_QUESTIONS = (
    Question(id="1", image=None, question="Is there a nodule?", answer="yes",
             answer_type=AnswerType.CLOSED),
    Question(id="2", image=None, question="Which organ?", answer="liver",
             answer_type=AnswerType.CLOSED, choices=("liver", "spleen", "lung")),
)  # fmt: skip


def _articles() -> list[bytes]:
    body = "".join(
        f'<p>See <xref ref-type="fig" rid="f{i}">Figure {i}</xref> and Figs. {i} to {i + 1}.</p>'
        f'<fig id="f{i}"><label>Figure {i}</label><caption><title>CT</title><p>(A) Axial '
        f"<sup>18</sup>F-FDG. (B) MRI &#x2265; 3&#xa0;T.</p></caption><graphic"
        f' xlink:href="img{i}"/></fig>'
        for i in range(1, 4)
    )
    head = (
        '<article xmlns:xlink="http://www.w3.org/1999/xlink" article-type="case-report"><front>'
        '<article-meta><article-id pub-id-type="pmc">1</article-id><permissions><license '
        'xlink:href="https://creativecommons.org/licenses/by/4.0/"><license-p>CC BY</license-p>'
        "</license></permissions></article-meta></front>"
    )
    xml = f"<?xml version='1.0' encoding='UTF-8'?>{head}<body><sec>{body}</sec></body></article>"
    return [xml.encode(), xml.replace("UTF-8", "UTF-16").encode("utf-16")]


def _pictures() -> list[bytes]:
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 255, (24, 32), dtype=np.uint8)
    color = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
    wide = rng.integers(0, 65535, (24, 32), dtype=np.uint16)
    made = []
    for values, formats in (
        (gray, "PNG JPEG TIFF GIF"),
        (color, "PNG JPEG TIFF WEBP"),
        (wide, "PNG TIFF"),
    ):
        for name in formats.split():
            buffer = io.BytesIO()
            Image.fromarray(values).save(buffer, name)
            made.append(buffer.getvalue())
    return [*made, _dicom(wide), *_nifti(wide)]


def _dicom(values: np.ndarray) -> bytes:
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.WindowCenter, dataset.WindowWidth = 2000, 4000
    dataset.PixelData = values.tobytes()
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _nifti(values: np.ndarray) -> list[bytes]:
    import nibabel

    volume = nibabel.Nifti1Image(np.stack([values] * 3, axis=-1).astype(np.int32), np.eye(4))
    data = volume.to_bytes()
    return [data, gzip.compress(data)]


def _conversations() -> list[bytes]:
    items = [
        {
            "id": f"r{i}",
            "image": f"{i}.png",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is shown?"},
                {"from": "gpt", "value": "A chest radiograph."},
            ],
        }
        for i in range(4)
    ]
    messages = [
        {
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
                {"role": "assistant", "content": "A CT."},
            ],
            "images": ["a.png"],
        }
    ] * 3
    array = json.dumps(items, indent=1).encode()
    lines = "\n".join(json.dumps(item) for item in items).encode()
    return [array, lines, json.dumps(messages).encode(), gzip.compress(array)]


def _replies() -> list[bytes]:
    pairs = json.dumps([{"question": "What is shown?", "answer": "A CT scan of the chest."}] * 2)
    return [
        pairs.encode(),
        f"```json\n{pairs}\n```".encode(),
        b"<think>It could be B.</think> The answer is **(A)** liver.",
        b"User: What is this?\nAssistant: An MRI.\nUser: Which plane?\nAssistant: Axial.",
        b"(A) CT. (B\xe2\x80\x93D) MRI. Left: before. Right: after.",
        "\u7b54\u6848\uff1a\u662f\u3002".encode(),
    ]


def _recipes() -> list[bytes]:
    return [path.read_bytes() for path in shipped_recipes().values()]

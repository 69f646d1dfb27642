"""What was tokenized is taken from the disk, by the words and by all that decides the ids."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medllava.data import token_store
from medllava.data.dropped import Dropped
from medllava.data.token_store import Encoding, Texts, encode_chunks
from medllava.data.tokenize import EncodedText
from medllava.errors import SetupError
from medllava.model.weightless_processor import read_processor
from medllava.progress import SilentProgress
from medllava.recipe import load_recipe
from medllava.records import InstructionRecord, Stage, Turn


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture(scope="module")
def processor() -> object:
    return read_processor(load_recipe("debug").model, init="parts")


@pytest.fixture
def encoding(processor: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Encoding:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Encoding(processor=processor, image_tokens=4, max_length=60)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of records that were tokenized and not taken from the disk."""
    ids: list[str] = []
    before = token_store.encode_records

    def counted(records: list[InstructionRecord], *args: object, **kwargs: object) -> Texts:
        ids.extend(record.record_id for record in records)
        return before(records, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(token_store, "encode_records", counted)
    return ids


def record(name: str, reply: str = "It is a CT.") -> InstructionRecord:
    turns = (
        Turn(role="user", content=f"<image>\nWhat is {name}?"),
        Turn(role="assistant", content=reply),
    )
    return InstructionRecord(record_id=name, images=("a.png",), turns=turns, stage=Stage.INSTRUCT)


def chunks(count: int, size: int = 4) -> list[tuple[int, list[InstructionRecord]]]:
    """Chunks in which one text is cut and one is dropped for a token of the model's own."""
    replies = ("yes", "no " * 40, "a <|im_end|> inside", "It is a CT.")
    return [
        (number, [record(f"{number}-{i}", replies[i % 4]) for i in range(size)])
        for number in range(count)
    ]


def run(encoding: Encoding, given: list[tuple[int, list[InstructionRecord]]]) -> list[Texts]:
    found = list(encode_chunks(given, encoding, SilentProgress()))
    assert [number for number, _ in found] == [number for number, _ in given]
    return [texts for _, texts in found]


def same(some: list[Texts], others: list[Texts]) -> bool:
    def plain(text: EncodedText | Dropped) -> object:
        if isinstance(text, Dropped):
            return text
        ids, supervised = text.input_ids, text.supervised
        return ids.dtype, ids.tolist(), supervised.dtype, supervised.tolist(), text.shortened

    return [[plain(t) for t in texts] for texts in some] == [
        [plain(t) for t in texts] for texts in others
    ]


def test_a_second_start_reads_what_the_first_one_tokenized(
    encoding: Encoding, encoded: list[str]
) -> None:
    given = chunks(3)
    first = run(encoding, given)
    kinds = {type(text) for texts in first for text in texts}
    assert kinds == {EncodedText, Dropped}
    assert any(isinstance(t, EncodedText) and t.shortened for texts in first for t in texts)
    assert len(encoded) == 12
    assert same(run(encoding, given), first)
    assert len(encoded) == 12


def test_a_file_that_grew_is_tokenized_from_where_it_grew(
    encoding: Encoding, encoded: list[str]
) -> None:
    run(encoding, chunks(2))
    encoded.clear()
    run(encoding, chunks(3))
    assert {name[0] for name in encoded} == {"2"}


def test_nothing_is_taken_for_other_words_or_another_way_to_tokenize(
    encoding: Encoding, encoded: list[str]
) -> None:
    run(encoding, chunks(1))
    encoded.clear()
    other = read_processor(load_recipe("debug").model, init="parts")
    other.chat_template = f"{other.chat_template}{{# another #}}"  # type: ignore[attr-defined]
    grown = read_processor(load_recipe("debug").model, init="parts")
    grown.tokenizer.add_tokens(["CT"])  # type: ignore[attr-defined]
    for changed in (
        replace(encoding, max_length=61),
        replace(encoding, image_tokens=5),
        replace(encoding, processor=other),
        replace(encoding, processor=grown),
    ):
        run(changed, chunks(1))
        assert len(encoded) == 4, changed
        encoded.clear()
    run(encoding, [(0, [record("0-0", "other words")])])
    assert encoded == ["0-0"]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut", None])
def test_a_damaged_file_is_made_again(
    encoding: Encoding, encoded: list[str], tmp_path: Path, damage: bytes | None
) -> None:
    first = run(encoding, chunks(1))
    (file,) = tmp_path.rglob("*.npz")
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    file.write_bytes(bytes(flipped) if damage is None else damage)
    encoded.clear()
    assert same(run(encoding, chunks(1)), first)
    assert len(encoded) == 4
    assert file.read_bytes() == whole


def test_a_disk_that_takes_nothing_is_told_once_and_costs_time_only(
    encoding: Encoding, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("no folder")
    progress = Notes()
    found = list(encode_chunks(chunks(2), encoding, progress))
    assert len(found) == 2
    (said,) = progress.said
    assert "not kept" in said


def test_what_was_not_used_for_longest_goes_first(
    encoding: Encoding, encoded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(encoding, chunks(2))
    size = max(file.stat().st_size for file in tmp_path.rglob("*.npz"))
    monkeypatch.setattr(token_store, "_MOST_BYTES", 2 * size)
    run(encoding, chunks(1))  # the first is used again, so that the second is the oldest
    run(encoding, [(0, [record("new")])])
    encoded.clear()
    run(encoding, chunks(1))
    assert encoded == []
    run(encoding, chunks(2))
    assert {name[0] for name in encoded} == {"1"}


def test_processes_give_what_one_process_gives_in_the_same_order(
    encoding: Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = chunks(6)
    monkeypatch.setattr(token_store, "num_cores", lambda: 1)
    alone = run(encoding, given)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")
    monkeypatch.setattr(token_store, "num_cores", lambda: 2)
    monkeypatch.setattr(token_store, "_ALONE", 1)
    started: list[object] = []
    start = token_store._Process.__init__

    def counted(self: object, encoding: Encoding) -> None:
        started.append(self)
        start(self, encoding)  # type: ignore[arg-type]

    monkeypatch.setattr(token_store._Process, "__init__", counted)
    assert same(run(encoding, given), alone)
    assert len(started) == 2
    assert all(one._process.poll() is not None for one in started)  # type: ignore[attr-defined]
    assert isinstance(alone[0][0], EncodedText)
    assert np.issubdtype(alone[0][0].input_ids.dtype, np.int32)


def test_a_process_that_dies_is_told(encoding: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_store, "num_cores", lambda: 2)
    monkeypatch.setattr(token_store, "_ALONE", 0)
    monkeypatch.setattr(token_store.sys, "executable", "/bin/false")
    with pytest.raises(SetupError, match=r"a process that tokenizes ended \(exit code 1\)"):
        run(encoding, chunks(1))


def test_a_tokenizer_whose_code_came_with_its_model_stays_in_this_process(
    encoding: Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_store, "num_cores", lambda: 2)
    monkeypatch.setattr(token_store, "_ALONE", 0)
    monkeypatch.setattr(token_store.sys, "executable", "/bin/false")
    other = read_processor(load_recipe("debug").model, init="parts")
    own = type("Own", (type(other.tokenizer),), {"__module__": "transformers_modules.own"})  # type: ignore[attr-defined]
    other.tokenizer.__class__ = own  # type: ignore[attr-defined]
    assert len(run(replace(encoding, processor=other), chunks(2))) == 2

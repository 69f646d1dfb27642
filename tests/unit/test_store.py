import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from medllava import store
from medllava.errors import DataError, RecordError


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path: Path):
    path = tmp_path / "a.json"
    store.write_json(path, {"old": 1})

    def fail() -> None:
        with store.atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("torn", [b'{"n": 2', b'{"n": 2}', b"\xff" * 70_000])
def test_a_torn_last_line_is_cut_before_the_next_is_written(tmp_path: Path, torn: bytes):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"n": 1}\n' + torn)
    with store.JsonlWriter(path) as writer:
        writer.write({"n": 3})
    assert [value["n"] for _, value in store.iter_jsonl(path)] == [1, 3]


def test_a_file_of_one_torn_line_becomes_empty(tmp_path: Path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"n": 1')
    store.JsonlWriter(path).close()
    assert path.read_bytes() == b""


def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"n": 1}\n\nnot json\n')
    with pytest.raises(RecordError, match=r"lines\.jsonl, line 3"):
        list(store.iter_jsonl(path))
    path.write_text("[1]\n")
    with pytest.raises(RecordError, match=r"expected a JSON object: .*line 1"):
        list(store.iter_jsonl(path))


def test_a_journal_remembers_what_an_earlier_run_marked(tmp_path: Path):
    first = store.Journal(tmp_path / "journal.jsonl")
    first.mark("PMC1.1", figures=2)
    first.close()
    with (tmp_path / "journal.jsonl").open("ab") as handle:
        handle.write(b'{"key": "PMC2.1", "fig')
    again = store.Journal(tmp_path / "journal.jsonl")
    assert "PMC1.1" in again
    assert again["PMC1.1"]["figures"] == 2
    assert "PMC2.1" not in again
    again.mark("PMC2.1")
    assert len(store.Journal(tmp_path / "journal.jsonl")) == 2


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path):
    refused = pytest.raises(DataError, match="another run is writing here")
    with store.exclusive(tmp_path), refused, store.exclusive(tmp_path):
        pass
    with store.exclusive(tmp_path):
        pass


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "..\\x", "link/x"])
def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, name: str):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="path leaves its folder"):
        store.contained_path(root, name)
    assert store.contained_path(root, "a/b.png") == root / "a/b.png"


def _write_forever(path: Path) -> None:
    with store.JsonlWriter(path) as writer:
        number = 0
        while True:
            writer.write({"number": number, "text": "x" * 500})
            number += 1


def test_lines_survive_a_kill_in_the_middle(tmp_path: Path):
    path = tmp_path / "lines.jsonl"
    process = multiprocessing.get_context("fork").Process(target=_write_forever, args=(path,))
    process.start()
    while not path.exists() or path.stat().st_size < 100_000:
        pass
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    store.JsonlWriter(path).close()
    numbers = [value["number"] for _, value in store.iter_jsonl(path)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 100

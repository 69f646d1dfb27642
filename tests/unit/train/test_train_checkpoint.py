"""Checkpoints: exactly as many as were asked for, the newest ones, each whole."""

from pathlib import Path

import pytest

from medllava.train.checkpoint import list_checkpoints, partial_folder, seal_checkpoint


def seal(folder: Path, step: int, *, keep: int) -> None:
    partial = partial_folder(folder, step)
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(bytes([step]))
    seal_checkpoint(folder, step, keep=keep)


@pytest.mark.parametrize(("keep", "expected"), [(1, [8]), (2, [6, 8]), (3, [4, 6, 8]), (0, [8])])
def test_only_the_newest_stay(tmp_path: Path, keep: int, expected: list[int]) -> None:
    for step in (2, 4, 6, 8):
        seal(tmp_path, step, keep=keep)
    assert [step for step, _ in list_checkpoints(tmp_path)] == expected
    for step, folder in list_checkpoints(tmp_path):
        assert (folder / "model.safetensors").read_bytes() == bytes([step])


def test_a_half_written_one_does_not_count(tmp_path: Path) -> None:
    seal(tmp_path, 2, keep=2)
    partial_folder(tmp_path, 4).mkdir()
    assert [step for step, _ in list_checkpoints(tmp_path)] == [2]

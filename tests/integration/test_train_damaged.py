"""Damaged pictures: dropped by name before the run is laid out, masked if they change later."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from at_step import AtStep
from test_train_run import StopError

from medllava.data import image_verdicts, pixels
from medllava.data.random_records import write_random_records
from medllava.errors import DataError
from medllava.model.weightless_processor import read_processor
from medllava.progress import SilentProgress
from medllava.train import prepare
from medllava.train.config import StageRunConfig
from medllava.train.ranks import Ranks
from medllava.train.resolve import resolve_config
from medllava.train.run import train_stage


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_random_records(tmp_path / "data", count=32)


def config_of(data: Path, output_dir: Path, **changes: object) -> StageRunConfig:
    config = resolve_config(
        "debug",
        stage="2",
        data=str(data),
        init="parts",
        output_dir=output_dir,
        max_steps=6,
        overrides=["checkpoint.every_steps=2", "data.max_dropped=0.5"],
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def pictures(data: Path) -> list[Path]:
    return sorted(path for path in data.rglob("*") if path.suffix in {".png", ".jpg"})


def cut(path: Path) -> None:
    """Leave the header whole and half of the body."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def test_what_cannot_be_read_is_dropped_by_name_before_the_run_is_laid_out(
    data: Path, tmp_path: Path
) -> None:
    first, second, third, *_ = pictures(data)
    cut(first)
    second.write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 40)
    third.unlink()
    summary = train_stage(config_of(data, tmp_path / "out"))
    assert summary.complete
    lines = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").open()]
    told = " ".join(line["detail"] for line in lines)
    assert all(path.name in told for path in (first, second, third))
    reasons = {line["reason"] for line in lines}
    assert reasons == {
        "image file not readable",
        "image file missing",
    }
    assert summary.counts["records_dropped"] == len(lines)


def test_a_picture_that_changes_under_way_is_masked_and_the_run_goes_on_and_is_resumed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prepare, "_CACHE_BYTES", 0)  # nothing is kept: every step reads its files
    before, *rest = pictures(data)
    cut(before)
    spoiled = False

    def spoil() -> None:
        nonlocal spoiled
        if not spoiled:
            for path in rest[: len(rest) // 2]:
                cut(path)
            rest[-1].unlink()
        spoiled = True

    def stop() -> None:
        spoil()
        raise StopError

    config = config_of(data, tmp_path / "out")
    with pytest.raises(StopError):
        train_stage(config, progress=AtStep(3, stop))
    began = (tmp_path / "out" / "dropped.jsonl").read_text()
    with caplog.at_level(logging.WARNING):
        summary = train_stage(config)
    assert summary.complete
    assert summary.counts["masked_records"] > 0
    assert len(metrics(tmp_path / "out")) == 6
    assert rest[0].name in caplog.text or rest[-1].name in caplog.text
    assert "nothing is learned from record" in caplog.text
    ids = [json.loads(line)["record_id"] for line in began.splitlines()]
    now = [json.loads(line)["record_id"] for line in (tmp_path / "out" / "dropped.jsonl").open()]
    assert now == ids


def test_kept_pixels_are_those_that_a_run_without_them_decodes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_stage(config_of(data, tmp_path / "kept"))
    monkeypatch.setattr(prepare, "_CACHE_BYTES", 0)
    train_stage(config_of(data, tmp_path / "decoded"))
    kept, decoded = (metrics(tmp_path / name) for name in ("kept", "decoded"))
    assert [step["loss"] for step in kept] == [step["loss"] for step in decoded]


def test_a_second_start_decodes_no_picture_that_has_not_changed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_verdicts, "_SETTLED_SECONDS", 0.0)
    decoded: list[str] = []
    load = pixels.load_image
    monkeypatch.setattr(pixels, "load_image", lambda path: decoded.append(path.name) or load(path))

    def start(name: str) -> set[str]:
        decoded.clear()
        config = config_of(data, tmp_path / name)
        processor = read_processor(config.recipe.model, init="parts")
        found = prepare.share_data(config, Ranks())
        index = prepare.share_index(
            config, found, processor, Ranks(), progress=SilentProgress(), is_training=True
        )
        assert set(index.kept_pixels) == set(index.images)
        return set(decoded)

    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
    assert start("first") == {path.name for path in pictures(data)}
    assert start("second") == set()
    changed = pictures(data)[3]
    cut(changed)
    assert start("third") == {changed.name}


def test_a_file_that_is_mended_later_stays_dropped_in_a_run_that_goes_on(
    data: Path, tmp_path: Path
) -> None:
    def stop() -> None:
        raise StopError

    first = pictures(data)[0]
    shutil.copy(first, tmp_path / "whole")
    cut(first)
    config = config_of(data, tmp_path / "out")
    with pytest.raises(StopError):
        train_stage(config, progress=AtStep(3, stop))
    shutil.copy(tmp_path / "whole", first)
    summary = train_stage(config)
    assert summary.complete
    assert summary.counts["records_dropped"] >= 1


def test_equal_ids_of_two_sources_do_not_drop_each_other_when_a_run_goes_on(
    data: Path, tmp_path: Path
) -> None:
    def stop() -> None:
        raise StopError

    other = tmp_path / "other"
    shutil.copytree(data, other)
    cut(pictures(other)[0])
    config = resolve_config(
        "debug",
        stage="2",
        data=[f"{data}:0.5", f"{other}:0.5"],
        init="parts",
        output_dir=tmp_path / "out",
        max_steps=4,
        overrides=["checkpoint.every_steps=2", "data.max_dropped=0.5"],
    )
    with pytest.raises(StopError):
        train_stage(config, progress=AtStep(3, stop))
    began = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").open()]
    assert {line["source"] for line in began} == {1}
    assert all(line["item"] > 0 for line in began)
    assert train_stage(config).complete
    now = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").open()]
    assert [(d["source"], d["item"]) for d in now] == [(d["source"], d["item"]) for d in began]


def test_a_run_that_an_earlier_version_began_is_refused_with_the_next_step(
    data: Path, tmp_path: Path
) -> None:
    def stop() -> None:
        raise StopError

    cut(pictures(data)[0])
    config = config_of(data, tmp_path / "out")
    with pytest.raises(StopError):
        train_stage(config, progress=AtStep(3, stop))
    file = tmp_path / "out" / "dropped.jsonl"
    lines = [json.loads(line) for line in file.open()]
    ids_only = ({k: d[k] for k in ("record_id", "reason", "detail")} for d in lines)
    file.write_text("".join(json.dumps(d) + "\n" for d in ids_only))
    with pytest.raises(DataError, match="--no-resume"):
        train_stage(config)
    assert train_stage(replace(config, resume=False)).complete

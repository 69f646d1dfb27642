"""Several sources in one run, and records that cannot be used, through the command itself."""

import json
from pathlib import Path

import pytest
from at_step import AtStep
from typer.testing import CliRunner

from medllava.cli.app import app
from medllava.data.random_records import write_random_records
from medllava.train.resolve import resolve_config
from medllava.train.run import train_stage

pytestmark = pytest.mark.timeout(280)


class StopError(Exception):
    pass


def stop() -> None:
    raise StopError


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("mixture")
    return (
        write_random_records(folder / "a", count=40),
        write_random_records(folder / "b", count=24, seed=1),
    )


def config_of(sources: tuple[Path, Path], out: Path, *, init: str = "parts", **options):
    first, second = sources
    return resolve_config(
        "debug",
        stage="2",
        data=[f"{first}:0.75", f"{second}:0.25"],
        init=init,
        output_dir=out,
        max_steps=8,
        overrides=["checkpoint.every_steps=2"],
        **options,
    )


def test_a_mixture_is_recorded_and_resumes_bitwise(sources, tmp_path):
    train_stage(config_of(sources, tmp_path / "whole"))
    run = json.loads((tmp_path / "whole" / "run.json").read_text())
    parts = run["data"]["mixture"]
    assert [part["source"] for part in parts] == [str(path) for path in sources]
    assert parts[0]["share"] == pytest.approx(0.75, abs=0.01 + 1 / 32)  # 32 records are drawn
    assert sum(part["drawn"] for part in parts) == 32
    with pytest.raises(StopError):
        train_stage(config_of(sources, tmp_path / "cut"), progress=AtStep(5, stop))
    train_stage(config_of(sources, tmp_path / "cut"))
    for name in ("model.safetensors", "dropped.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()

    # What was learned is replayed by the run that goes on from here.
    more = write_random_records(tmp_path / "more", count=20, seed=2)
    config = resolve_config(
        "debug",
        stage="2",
        data=str(more),
        init=str(tmp_path / "whole"),
        output_dir=tmp_path / "more-out",
        max_steps=2,
        overrides=["stage.instruct.replay=0.2"],
    )
    weights = [source.weight for source in config.mixture]
    assert weights == pytest.approx([0.8, 0.2 * parts[0]["share"], 0.2 * parts[1]["share"]])
    train_stage(config)


def test_two_data_are_both_in_the_plan(sources):
    first, second = map(str, sources)
    arguments = ["train", "debug", "--stage", "2", "--dry-run"]
    result = CliRunner().invoke(app, [*arguments, "--data", first, "--data", second])
    assert result.exit_code == 0, result.stderr
    assert f"{first} 62.5% (40 of 40 records a pass); {second} 37.5% (24 of 24" in " ".join(
        result.output.split()
    )
    result = CliRunner().invoke(app, [*arguments, "--data", f"{first}:2", "--data", second])
    assert result.exit_code == 3
    assert "Give every source a weight" in result.stderr


def test_a_run_whose_third_record_in_ten_is_bad_ends_well(sources, tmp_path):
    records = [json.loads(line) for line in (sources[0] / "instructions.jsonl").open()][:10]
    records[2]["turns"][1]["content"] = ""
    file = tmp_path / "instructions.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    command = ["train", "debug", "--stage", "2", "--data", str(tmp_path), "--init", "parts"]
    command += ["--image-dir", str(sources[0]), "-o", str(tmp_path / "out"), "--max-steps", "2"]
    refused = CliRunner().invoke(app, [*command, "--set", "data.max_dropped=0.05"])
    assert refused.exit_code == 4
    assert "data.max_dropped=0.1" in refused.stderr  # the line says how to go on
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    (dropped,) = map(json.loads, (tmp_path / "out" / "dropped.jsonl").open())
    assert dropped["record_id"] == records[2]["record_id"]
    assert dropped["reason"] == "an empty reply"
    assert json.loads((tmp_path / "out" / "run.json").read_text())["data"]["dropped"] == 1

    sample = ["train", "debug", "--stage", "2", "--data", str(tmp_path), "--show-sample", "--id"]
    sample += [records[4]["record_id"], "--image-dir", str(sources[0])]
    shown = CliRunner().invoke(app, sample)
    assert shown.exit_code == 0, shown.stderr
    assert records[4]["record_id"] in shown.output
    sample[sample.index(records[4]["record_id"])] = records[2]["record_id"]
    shown = CliRunner().invoke(app, sample)
    assert shown.exit_code == 4
    assert "an empty reply" in shown.stderr

"""Shards by others: a fake sbatch that runs what it is given, processes, and a real Ray."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pmc_bucket import BucketArticle, write_mirror
from test_pmc_bucket import content_of
from typer.testing import CliRunner

from medllava.cli.app import app
from medllava.errors import SetupError
from medllava.pmc.config import FetchConfig, to_arguments
from medllava.pmc.executors import job_command
from medllava.pmc.fetch import fetch_figures

FAKE_SBATCH = """#!/bin/bash
# Runs the array of a script one job after the other, as Slurm would, with nothing on PATH.
for script; do :; done
range=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
mkdir -p "$(dirname "$script")/logs"
for index in $(seq 0 "$range"); do
    env -i SLURM_ARRAY_TASK_ID=$index PYTHONPATH="$PYTHONPATH" bash "$script" >/dev/null 2>&1
done
echo "4711;cluster"
"""


@pytest.fixture
def config(tmp_path: Path) -> FetchConfig:
    mirror = write_mirror(tmp_path / "mirror", [BucketArticle(n) for n in range(1, 7)])
    return FetchConfig(output_dir=tmp_path / "one", inputs=(mirror,), workers=2)


def test_slurm_jobs_use_the_interpreter_that_submits(
    config: FetchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_figures(config)
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(FAKE_SBATCH)
    (folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    array = dataclasses.replace(
        config,
        output_dir=tmp_path / "array",
        num_shards=3,
        executor="slurm",
        executor_options=("partition=cpu", "max-running=2"),
    )
    summary = fetch_figures(array)
    assert summary.details["job"] == "4711"
    script = summary.artifacts["script"].read_text()
    assert sys.executable in script
    assert "#SBATCH --array=0-2%2\n" in script
    assert "#SBATCH --partition=cpu\n" in script
    assert content_of(tmp_path / "array") == content_of(tmp_path / "one")


def test_dry_run_prints_the_array_script(config: FetchConfig, tmp_path: Path) -> None:
    command = [
        *("fetch-pmc", *to_arguments(config), "--executor", "slurm", "--num-shards", "4"),
        *("--executor-set", "time=1:00:00", "--dry-run"),
    ]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0
    assert "#!/bin/bash\n" in shown.stdout
    assert "#SBATCH --time=1:00:00" in shown.stdout
    assert '--shard-index "$SLURM_ARRAY_TASK_ID"' in shown.stdout
    assert not config.output_dir.exists()


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (("--executor", "slurm"), 7, "sbatch"),
        (("--executor", "slurm", "--executor-set", "partitoin=cpu"), 2, "partitoin"),
        (("--executor", "local", "--executor-set", "workers=many"), 2, "workers"),
        (("--executor", "spark"), 2, "spark"),
        (("--executor-set", "workers=2"), 2, "--executor"),
    ],
)
def test_mistakes_of_set_up_are_named_before_anything_is_listed(
    config: FetchConfig,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    code: int,
    named: str,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    result = CliRunner().invoke(app, ["fetch-pmc", *to_arguments(config), *options])
    assert result.exit_code == code
    assert named in result.stderr
    assert not config.output_dir.exists()


def test_missing_ray_is_named(config: FetchConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medllava.pmc.executors.find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"medllava\[cluster\]"):
        fetch_figures(dataclasses.replace(config, executor="ray"))
    assert not config.output_dir.exists()


def test_password_of_a_mirror_is_in_no_script(config: FetchConfig) -> None:
    config = dataclasses.replace(config, base_url="http://user:secret@127.0.0.1:9/x")
    assert not any("secret" in part for part in job_command(config, 0))


def test_arguments_of_a_job_mean_the_same(
    config: FetchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(
        config,
        licenses=("CC BY", "CC BY-NC"),
        languages=("en", "und"),
        limit=5,
        min_pixels=50,
        deduplicate=False,
        email="a@b.org",
        test_fraction=0.25,
        max_bytes=10**9,
        classifier='m:f"',
        webdataset=True,
        panels="drop",
        seed=3,
    )
    seen: list[FetchConfig] = []
    monkeypatch.setattr("medllava.pmc.fetch.fetch_figures", lambda c, progress: seen.append(c))
    CliRunner().invoke(app, ["fetch-pmc", *to_arguments(config)])
    assert seen == [config]


@pytest.mark.slow
def test_ray_runs_two_workers(config: FetchConfig, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    fetch_figures(config)
    folder = tmp_path / "ray"
    options = ("--executor", "ray", "--num-shards", "2", "--json")
    moved = dataclasses.replace(config, output_dir=folder)
    done = subprocess.run(
        [sys.executable, "-m", "medllava", "fetch-pmc", *to_arguments(moved), *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "RAY_NUM_CPUS": "2", "RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "ok"
    assert content_of(folder) == content_of(tmp_path / "one")
    shutil.rmtree(folder)

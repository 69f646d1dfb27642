"""What the plan says of memory is what a training process takes, measured in one of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medllava.data.random_records import write_random_records

pytestmark = pytest.mark.timeout(600)

WIDE = [  # 31 million weights that learn, so that they and not the process are what is measured
    "model.language_model.config.hidden_size=512",
    "model.language_model.config.intermediate_size=1536",
    "model.language_model.config.num_hidden_layers=8",
    "model.language_model.config.vocab_size=8192",
    "stage.instruct.global_batch_size=16",
    "data.max_length=1024",
]
GIB = 2**30


@pytest.mark.slow
def test_the_plan_on_this_cpu_is_within_15_percent_of_the_measured_peak(tmp_path: Path) -> None:
    data = write_random_records(tmp_path / "data", count=24)
    command = [sys.executable, "-m", "medllava", "train", "debug", "--stage", "2", "--json"]
    command += ["--data", str(data), "--init", "parts", "-o", str(tmp_path / "out")]
    command += ["--max-steps", "2"]
    for override in WIDE:
        command += ["--set", override]
    plan, run = (
        json.loads(subprocess.run([*command, *more], capture_output=True, check=True).stdout)
        for more in (["--dry-run"], [])
    )
    assert run["status"] == "ok"
    steps = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").open()]
    measured = max(step["memory_gib"] for step in steps)
    here = plan["summary"]["here"]
    assert here["total_bytes"] / GIB == pytest.approx(measured, rel=0.15), here["memory_bytes"]
    # The process itself is the smaller part, so the estimate of the run is what is held to this.
    assert here["memory_bytes"]["process"] < 0.5 * here["total_bytes"]

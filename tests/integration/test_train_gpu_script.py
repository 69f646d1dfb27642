"""The benchmark for GPUs runs small on a CPU, so that it is ready when there is one."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_gpu_benchmark_prints_its_whole_table_on_a_cpu():
    command = [sys.executable, "tests/benchmarks/train_gpu.py", "--small"]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    rows = [line.split("  ")[0] for line in result.stdout.splitlines()]
    for stage in (1, 2):
        for way in ("medllava train", "float8", "LLaVA's shape"):
            assert f"stage {stage}, {way}" in rows
    for row in ("stage 2, LoRA (NeMo's setting)", "engine, 8 new tokens", "chat, first token"):
        assert row in rows
    assert "failed" not in result.stdout
    parity = next(line for line in result.stdout.splitlines() if line.startswith("parity"))
    assert float(parity.split("of the largest")[0].split()[-1]) < 1e-5

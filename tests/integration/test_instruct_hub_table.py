"""A data set on the hub as a table, read by the command from a loopback hub."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features, Value
from datasets import Image as ImageColumn
from hub_loopback import TOKEN, Fault, Hub, running_hub
from PIL import Image

from medllava.data.sources import iter_instruction_records

pytestmark = pytest.mark.timeout(200)


def publish(hub: Hub, repo: str, *, count: int) -> None:
    """Put a data set of pictures and captions on the hub."""
    folder = hub.branch(repo, kind="datasets")
    (folder / "data").mkdir(parents=True)
    (folder.parent / "visibility").write_text("private")
    hub.commits[f"datasets/{repo}/main"] = ["1" * 40]
    (folder / "README.md").write_text("---\nlicense: other\n---\n")
    rows = []
    for number in range(count):
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), (40 * number, 0, 0)).save(buffer, "PNG")
        image = {"bytes": buffer.getvalue(), "path": f"{number}.png"}
        rows.append({"image": image, "caption": f"An axial CT slice, number {number}."})
    schema = Features({"image": ImageColumn(), "caption": Value("string")}).arrow_schema
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "data/train-00000.parquet")


def generate(hub: Hub, repo: str, out: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, with a cache of its own."""
    command = [sys.executable, "-m", "medllava", "generate-instructions", f"hf://{repo}"]
    command += ["--stage", "align", "--split", "all", "--privacy", "off", "-o", str(out)]
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(out.parent / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_data_set_on_the_hub_is_a_table_and_one_that_is_not_there_is_said(tmp_path: Path):
    with running_hub(tmp_path / "hub") as hub:
        publish(hub, "tester/slices", count=3)
        done = generate(hub, "tester/slices", tmp_path / "out")
        absent = generate(hub, "tester/none", tmp_path / "none")
        hub.faults.append(Fault("HEAD", "resolve", 0))  # the connection ends without an answer
        broken = generate(hub, "tester/slices", tmp_path / "broken/out")
    assert done.returncode == 0, done.stderr[-2000:]
    records = list(iter_instruction_records(tmp_path / "out"))
    assert [record.license for record in records] == ["own"] * 3
    assert "number 2" in records[2].turns[-1].content
    for failed, repo in ((absent, "tester/none"), (broken, "tester/slices")):
        assert failed.returncode == 5, failed.stderr[-2000:]
        assert repo in failed.stderr
        assert "Traceback" not in failed.stderr

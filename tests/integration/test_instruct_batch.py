"""The command with `--batch` against files and batches endpoints, with failures and two kills."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from llm_server import LoopbackBatches

from medllava.data.sources import iter_instruction_records
from medllava.records import FigureRecord
from medllava.store import iter_jsonl

WORDS = ("rib", "lung", "heart", "spleen", "liver", "kidney", "colon", "bone", "nerve", "brain")


def converse(text: str) -> str:
    number = int(text.split("Number ")[1].split()[0])
    word, other = WORDS[number % 10], WORDS[number // 10]
    answer = f"A {word} that lies near one {other} of the {word} kind, {other} first."
    return json.dumps({"turns": [{"question": f"Where is the {word}?", "answer": answer}]})


def test_batches_end_across_two_kills_with_every_figure_answered_once(tmp_path: Path) -> None:
    figures = tmp_path / "figures"
    figures.mkdir()
    rows = [
        FigureRecord(
            figure_id=f"PMC{i}.1/f1",
            pmcid=f"PMC{i}",
            version=1,
            caption=f"Number {i} .",
            images=(f"{i}.png",),
        ).to_json()
        for i in range(60)
    ]
    pq.write_table(pa.Table.from_pylist(rows), figures / "figures.parquet")
    server = LoopbackBatches()
    server.answer = converse
    server.call_faults = {"POST /batches": [500], "GET /batches/ID": [429, 503]}
    faults = ("500", "expired", "missing", "400")
    server.item_faults = {f"Caption: Number {i} .": [faults[i % 4]] for i in range(0, 60, 5)}
    kills = ["POST /batches", "GET /batches/ID"]
    process: subprocess.Popen[bytes] | None = None

    def kill(call: str) -> None:
        if kills and call == kills[0] and process is not None:
            del kills[0]
            process.send_signal(signal.SIGKILL)
            process.wait()

    server.on_call = kill
    out = tmp_path / "out"
    code = (
        "from pathlib import Path; import sys\n"
        "from medllava.instruct.config import GenerateConfig\n"
        "from medllava.instruct.generate import generate_instructions\n"
        "from medllava.records import Stage\n"
        "generate_instructions(GenerateConfig(figures=Path(sys.argv[1]), output_dir=Path(sys.argv"
        "[2]), stage=Stage.INSTRUCT, teacher='m', base_url=sys.argv[3], batch=True,"
        " poll_seconds=0.05))"
    )
    with server.running():
        codes = []
        for _ in range(3):
            process = subprocess.Popen([sys.executable, "-c", code, figures, out, server.url])
            codes.append(process.wait(timeout=120))
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0]
    records = list(iter_instruction_records(out))
    refused = [v for _, v in iter_jsonl(out / "rejected.jsonl")]
    assert [v["reason"] for v in refused] == ["refused"] * 3
    named = {r.figure_id for r in records} | {v["figure_id"] for v in refused}
    assert named == {f"PMC{i}.1/f1" for i in range(60)}
    assert len(records) == 57
    assert server.paid.total() == 57
    assert max(server.paid.values()) == 1
    # The first run's batch was found again, not made anew; then one for what had failed.
    assert len(server.batches) == 2

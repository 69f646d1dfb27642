"""A thousand requests against every kind of fault and kill -9: none lost, none paid twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from llm_server import LoopbackModel

from medllava.data.sources import iter_instruction_records
from medllava.instruct.config import GenerateConfig
from medllava.instruct.generate import generate_instructions
from medllava.records import FigureRecord, Stage
from medllava.store import iter_jsonl, read_json

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BAD = ("No idea.", '{"turns": [{"question"', "I am sorry, I cannot see it.", "{}", "User: Why?")
FAULTS = ("429", "500", "503", "reset", "hang", "cut", "malformed", "no-choices")
SCRIPT = """
import sys
from pathlib import Path
from medllava.instruct.config import GenerateConfig
from medllava.instruct.generate import generate_instructions
from medllava.records import Stage
figures, out, url = sys.argv[1:]
config = GenerateConfig(
    figures=Path(figures), output_dir=Path(out), stage=Stage.INSTRUCT, teacher="m", base_url=url,
    concurrency=32, timeout_seconds=1.0,
)
print(generate_instructions(config).complete)
"""


def number_in(text: str) -> int:
    return int(text.split("Number ")[1].split()[0])


def converse(text: str) -> str:
    """A good reply that nobody else gets: the number of the caption in words."""
    words = " ".join(NUMBERS[int(digit)] for digit in f"{number_in(text):04d}")
    turns = [
        {"question": f"What is seen in {words}?", "answer": f"A shape like {words} is in it."},
        {"question": "Is it round?", "answer": f"Yes, as round as {words} and {words} can be."},
    ]
    return json.dumps({"turns": turns})


def write_figures(folder: Path, count: int) -> Path:
    folder.mkdir()
    rows = [
        FigureRecord(
            figure_id=f"PMC{i}.1/f1",
            pmcid=f"PMC{i}",
            version=1,
            caption=f"Number {i} .",
            images=(f"{i}.png",),
        ).to_json()
        for i in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "figures.parquet")
    return folder


def run_with_kills(
    server: LoopbackModel, figures: Path, out: Path, kills: Callable[[], list[int]]
) -> None:
    """Run the step in a process, kill it each time so many requests were paid, then let it end."""
    command = [sys.executable, "-c", SCRIPT, str(figures), str(out), server.url]
    for wanted in kills():
        process = subprocess.Popen(command, env={**os.environ}, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while server.paid.total() < wanted and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert ended.stdout.strip() == "True", ended.stderr


def test_a_thousand_requests_with_faults_and_kills_are_answered_and_paid_once(
    tmp_path: Path,
) -> None:
    """Every kind of fault, bad replies, and kill -9 at five points; then a run to the end."""
    server = LoopbackModel()
    figures, out = write_figures(tmp_path / "figures", 1000), tmp_path / "out"
    for i in range(0, 1000, 9):
        server.faults[f"Caption: Number {i} ."] = [FAULTS[i // 9 % len(FAULTS)]]
    server.faults["Caption: Number 4 ."] = ["503", "cut", "429", "reset"]

    def answer(text: str) -> str:
        number = number_in(text)
        return BAD[number % len(BAD)] if number % 10 == 3 else converse(text)

    server.answer = answer
    server.hang_seconds = 1.5
    with server.running():
        run_with_kills(server, figures, out, lambda: [20, 150, 151, 400, 700])

    records = list(iter_instruction_records(out))
    lines = [v for _, v in iter_jsonl(out / "rejected.jsonl") if "question" not in v]
    named = [r.figure_id for r in records] + [v["figure_id"] for v in lines]
    assert sorted(named) == sorted(f"PMC{i}.1/f1" for i in range(1000))
    assert all(v["reason"] for v in lines)
    assert len(lines) == 100
    assert server.paid.total() == 1000
    assert max(server.paid.values()) == 1
    usage = read_json(out / "summary.json")["usage"]
    replies = [v for _, v in iter_jsonl(out / "ledger.jsonl") if v["event"] == "reply"]
    assert len(replies) == len({v["key"] for v in replies}) == server.paid.total()
    assert usage["times_asked"] <= 1000 + 5 * 32
    fresh = tmp_path / "fresh"
    replay = GenerateConfig(
        figures=figures,
        output_dir=fresh,
        stage=Stage.INSTRUCT,
        teacher=f"recorded:{out / 'ledger.jsonl'}",
    )
    generate_instructions(replay)
    assert [r.turns for r in iter_instruction_records(fresh)] == [r.turns for r in records]


def test_without_keys_only_requests_in_flight_at_a_kill_are_repeated_and_each_is_named(
    tmp_path: Path,
) -> None:
    """A server that does not know `Idempotency-Key` may be paid twice for what a kill cut off."""
    server = LoopbackModel(converse)
    server.honours_keys = False
    server.latency = 0.02
    figures, out = write_figures(tmp_path / "figures", 200), tmp_path / "out"
    with server.running():
        run_with_kills(server, figures, out, lambda: [90])
    assert len(list(iter_instruction_records(out))) == 200
    repeated = server.paid.total() - 200
    assert 0 <= repeated <= 32
    usage = read_json(out / "summary.json")["usage"]
    # Every request that was paid for is in the ledger, the repeated ones as asked twice.
    assert usage["times_asked"] >= server.paid.total()
    assert usage["times_asked"] - 200 <= 32

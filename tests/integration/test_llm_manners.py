"""The command against a server process with each bad manner: what is paid is counted and told."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from llm_manners import served

from medllava.errors import DataError, RemoteError
from medllava.instruct.config import GenerateConfig
from medllava.instruct.generate import generate_instructions
from medllava.progress import SilentProgress
from medllava.records import FigureRecord, Stage, StepSummary
from medllava.store import iter_jsonl

PRICES = '["m"]\ninput_per_million = 10\noutput_per_million = 30\n'
"""With 1,700 tokens in and 300 out a reply costs 0.026."""


def write_figures(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
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


def settings(tmp_path: Path, url: str, *, figures: int = 10, **more: Any) -> GenerateConfig:
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICES)
    values: dict[str, Any] = {
        "teacher": "m",
        "base_url": url,
        "concurrency": 4,
        "prices": prices,
        "timeout_seconds": 5.0,
        "request": {"retries": 2},
        **more,
    }
    return GenerateConfig(
        figures=write_figures(tmp_path / "figures", figures),
        output_dir=tmp_path / "out",
        stage=Stage.INSTRUCT,
        **values,
    )


def ledger_facts(out: Path) -> tuple[int, int, float]:
    """Return replies paid, attempts maybe paid, and dollars committed."""
    from medllava.llm.ledger import Ledger

    with Ledger(out / "ledger.jsonl") as ledger:
        return ledger.paid, ledger.maybe_paid, ledger.committed_usd


def assert_all_paid_is_counted(paid_by_server: int, out: Path) -> None:
    paid, maybe, _ = ledger_facts(out)
    assert paid <= paid_by_server <= paid + maybe


@pytest.mark.parametrize(
    "manner",
    [
        "good",
        "parts",
        "thought_parts",
        "reasoning",
        "usage_text",
        "usage_names",
        "empty_once",
        "old_parameters",
        "plain_only",
        "keyed",
        "busy",
        "once_422",
        "cut_once",
    ],
)
def test_a_server_that_can_be_understood_is_understood(tmp_path: Path, manner: str) -> None:
    with served(manner, tmp_path / "server") as server:
        summary = generate_instructions(settings(tmp_path, server.url))
        state = server.state
    assert summary.complete
    assert summary.counts["records"] == 10
    assert_all_paid_is_counted(state["paid"], tmp_path / "out")
    if manner in {"usage_text", "usage_names"}:
        usage = summary.details["usage"]
        assert (usage["input_tokens"], usage["output_tokens"]) == (17_000, 3_000)
        assert usage["cost_usd"] == pytest.approx(0.26)
    if manner == "once_422":
        assert all("response_format" in body for body in state["bodies"])
    if manner in {"good", "parts", "thought_parts", "reasoning", "plain_only"}:
        assert state["paid"] == 10
    if manner == "old_parameters":
        # Two refusals of the first request, none of those that follow.
        assert state["requests"] == 12
        assert all("max_completion_tokens" in body for body in state["bodies"][2:])


@pytest.mark.parametrize(
    "manner", ["no_usage", "usage_empty", "usage_null", "usage_text", "usage_names", "usage_large"]
)
def test_a_budget_holds_whatever_the_server_tells_of_tokens(tmp_path: Path, manner: str) -> None:
    price = 0.11 if manner == "usage_large" else 0.026
    with served(manner, tmp_path / "server") as server:
        config = settings(tmp_path, server.url, figures=30, max_cost_usd=0.20)
        summary = generate_instructions(config)
        paid = server.state["paid"]
    assert paid >= 1
    assert paid * price <= 0.20 + 1e-9
    assert not summary.complete
    assert summary.details["unanswered_by_reason"] == {"over_budget": 30 - paid}
    if manner in {"no_usage", "usage_empty", "usage_null"}:
        assert "told no tokens" in summary.details["usage"]["note"]
        assert summary.details["usage"]["replies_without_usage"] == paid


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        ("stream", "text/event-stream"),
        ("error_200", "upstream overloaded"),
        ("null_choices", "not a chat completion"),
        ("html", "Please log in"),
        ("cut", "no answer"),
        ("hang", "no whole reply within 1 seconds"),
        ("drip", "no whole reply within 1 seconds"),
        ("drip_head", "no whole reply within 1 seconds"),
        ("gateway", "upstream timed out"),
    ],
)
def test_what_cannot_be_read_is_asked_once_more_and_counted_as_maybe_paid(
    tmp_path: Path, manner: str, words: str
) -> None:
    started = time.monotonic()
    with served(manner, tmp_path / "server") as server:
        config = settings(tmp_path, server.url, timeout_seconds=1.0)
        with pytest.raises(RemoteError, match=words):
            generate_instructions(config)
        state = server.state
    assert time.monotonic() - started < 30
    assert max(state["seen"].values()) <= 2
    paid, maybe, committed = ledger_facts(tmp_path / "out")
    assert paid == 0
    assert maybe == state["requests"] >= state["paid"]
    assert committed > 0


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("reasoning_only", "empty_reply"),
        ("empty", "empty_reply"),
        ("empty_length", "length"),
        ("cut_length", "length"),
        ("refusal", "refusal"),
        ("tools", "tool_calls"),
        ("filter", "content_filter"),
        ("huge", "too_large"),
        ("too_long", "maximum context length"),
    ],
)
def test_replies_of_no_use_end_the_run_soon_with_the_servers_words(
    tmp_path: Path, manner: str, reason: str
) -> None:
    with served(manner, tmp_path / "server") as server:
        config = settings(tmp_path, server.url, figures=40)
        with pytest.raises(RemoteError, match=reason):
            generate_instructions(config)
        state = server.state
    assert state["requests"] <= 12
    assert max(state["seen"].values()) <= 2
    assert_all_paid_is_counted(state["paid"], tmp_path / "out")
    if reason == "length":
        assert [body["max_tokens"] for body in state["bodies"][:2]] == [1024, 4096]


@pytest.mark.parametrize(
    "manner", ["empty", "empty_length", "refusal", "tools", "huge", "too_long"]
)
def test_a_few_replies_of_no_use_are_left_for_the_next_run(tmp_path: Path, manner: str) -> None:
    with served(manner, tmp_path / "server") as server:
        first = generate_instructions(settings(tmp_path, server.url, figures=3))
    assert not first.complete
    assert first.counts["unanswered"] == 3
    with served("good", tmp_path / "other") as server:
        second = generate_instructions(settings(tmp_path, server.url, figures=3))
    assert second.complete
    assert second.counts["records"] == 3


def test_a_model_that_is_not_loaded_is_asked_again_when_it_is(tmp_path: Path) -> None:
    with served("not_loaded", tmp_path / "server") as server:
        with pytest.raises(RemoteError, match="No models loaded"):
            generate_instructions(settings(tmp_path, server.url))
        assert server.state["requests"] == 1
    with served("good", tmp_path / "other") as server:
        assert generate_instructions(settings(tmp_path, server.url)).counts["records"] == 10


def test_only_filtered_content_is_final_until_it_is_asked_for(tmp_path: Path) -> None:
    with served("filter_400", tmp_path / "server") as server:
        first = generate_instructions(settings(tmp_path, server.url))
        assert first.complete
        assert first.details["rejected_by_reason"] == {"refused": 5}
        asked = server.state["requests"]
        generate_instructions(settings(tmp_path, server.url))
        assert server.state["requests"] == asked
    with served("good", tmp_path / "other") as server:
        again = generate_instructions(settings(tmp_path, server.url, retry_refused=True))
    assert again.counts["records"] == 10


class Notes(SilentProgress):
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, message: str) -> None:
        self.told.append(message)


def test_the_user_is_told_the_servers_words_and_what_may_have_been_paid(tmp_path: Path) -> None:
    notes = Notes()
    with served("error_200", tmp_path / "server") as server:
        summary = generate_instructions(settings(tmp_path, server.url, figures=2), progress=notes)
    assert not summary.complete
    assert any("upstream overloaded" in message for message in notes.told)
    assert any(
        "4 attempts" in message and "may have been paid" in message for message in notes.told
    )


def test_odd_replies_among_good_ones_cost_only_themselves(tmp_path: Path) -> None:
    with served("odd", tmp_path / "server") as server:
        summary = generate_instructions(settings(tmp_path, server.url, figures=12))
        state = server.state
    assert not summary.complete
    assert summary.counts["records"] + summary.counts["unanswered"] == 12
    assert summary.details["unanswered_by_reason"]["empty_reply"] > 0
    assert max(state["seen"].values()) <= 2
    assert_all_paid_is_counted(state["paid"], tmp_path / "out")


def test_a_price_that_nobody_knows_is_said_to_be_unknown(tmp_path: Path) -> None:
    with served("good", tmp_path / "server") as server:
        config = settings(tmp_path, server.url, prices=None)
        summary = generate_instructions(config)
        assert "cost_usd" not in summary.counts
        assert summary.details["usage"]["cost_usd"] == "unknown"
        with pytest.raises(DataError, match="no price"):
            generate_instructions(settings(tmp_path, server.url, prices=None, max_cost_usd=1.0))


def test_parameters_of_the_user_reach_the_server(tmp_path: Path) -> None:
    with served("good", tmp_path / "server") as server:
        request = {"max_tokens": 77, "reasoning_effort": "low", "temperature": 0.1, "retries": 0}
        generate_instructions(settings(tmp_path, server.url, figures=2, request=request))
        body = server.state["bodies"][0]
    assert (body["max_tokens"], body["reasoning_effort"], body["temperature"]) == (77, "low", 0.1)
    with pytest.raises(DataError, match="--request model"):
        generate_instructions(settings(tmp_path, server.url, request={"model": "x"}))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("address", ["http://127.0.0.1:PORT/v1", "127.0.0.1:PORT"])
def test_an_address_where_nobody_listens_fails_in_seconds(tmp_path: Path, address: str) -> None:
    url = address.replace("PORT", str(free_port()))
    started = time.monotonic()
    with pytest.raises(RemoteError, match="no server there"):
        generate_instructions(settings(tmp_path, url))
    assert time.monotonic() - started < 5


SCRIPT = """
import json, signal, sys
from pathlib import Path
from medllava.instruct.config import GenerateConfig
from medllava.instruct.generate import generate_instructions
from medllava.records import Stage
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may run in the background
values = json.loads(sys.argv[1])
paths = {k: Path(values.pop(k)) for k in ("figures", "output_dir", "prices")}
generate_instructions(GenerateConfig(stage=Stage.INSTRUCT, **paths, **values))
"""


def start(config: GenerateConfig) -> subprocess.Popen[bytes]:
    values = {
        "figures": str(config.figures),
        "output_dir": str(config.output_dir),
        "prices": str(config.prices),
        "teacher": config.teacher,
        "base_url": config.base_url,
        "concurrency": config.concurrency,
        "timeout_seconds": config.timeout_seconds,
        "max_cost_usd": config.max_cost_usd,
        "request": config.request,
    }
    command = [sys.executable, "-c", SCRIPT, json.dumps(values)]
    return subprocess.Popen(command, env={**os.environ}, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("manner", ["drip", "broken", "hang"])
def test_ctrl_c_ends_a_run_within_seconds(tmp_path: Path, manner: str) -> None:
    with served(manner, tmp_path / "server") as server:
        config = settings(tmp_path, server.url, timeout_seconds=60.0, request={"retries": 8})
        process = start(config)
        deadline = time.monotonic() + 60
        while server.state["requests"] < 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        interrupted = time.monotonic()
        process.wait(timeout=30)
        assert time.monotonic() - interrupted < 8
        assert_all_paid_is_counted(server.state["paid"], tmp_path / "out")


def test_the_ledger_of_an_older_version_is_read(tmp_path: Path) -> None:
    """Lines as they were before attempts were noted: no `usage`, no `is_repeat`."""
    with served("good", tmp_path / "server") as server:
        generate_instructions(settings(tmp_path, server.url))
        path = tmp_path / "out/ledger.jsonl"
        lines = [line for _, line in iter_jsonl(path)]
        for line in lines:
            for name in ("usage", "cached_tokens"):
                line.get("reply", {}).pop(name, None)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        asked = server.state["requests"]
        summary: StepSummary = generate_instructions(settings(tmp_path, server.url))
        assert server.state["requests"] == asked
    assert summary.counts["records"] == 10
    assert summary.counts["cost_usd"] == pytest.approx(0.26)

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from llm_server import LoopbackBatches, ask

from medllava.errors import RemoteError
from medllava.llm.batch import BatchLimits, run_batches
from medllava.llm.client import OpenAIModel
from medllava.llm.ledger import Ledger
from medllava.llm.prices import Price
from medllava.llm.protocol import ChatRequest
from medllava.llm.runner import Outcome


@pytest.fixture
def server() -> Iterator[LoopbackBatches]:
    with LoopbackBatches().running() as running:
        yield running


def run(
    server: LoopbackBatches, folder: Path, requests: list[ChatRequest], **more: object
) -> list[Outcome]:
    price = more.pop("price", None)
    limits = BatchLimits(**{"poll_seconds": 0.01, "most_requests": 4, **more})  # type: ignore[arg-type]
    model = OpenAIModel("m", base_url=server.url, timeout_seconds=5, retry_seconds=0.01)
    with Ledger(folder / "ledger.jsonl") as ledger:
        return list(
            run_batches(model, requests, ledger=ledger, folder=folder, limits=limits, price=price)  # type: ignore[arg-type]
        )


REQUESTS = [ask(f"q{i}") for i in range(10)]


def test_replies_are_collected_by_id_in_the_order_of_the_requests(
    server: LoopbackBatches, tmp_path: Path
) -> None:
    outcomes = run(server, tmp_path, REQUESTS)
    assert [o.reply and o.reply.text for o in outcomes] == [f"You said: q{i}" for i in range(10)]
    assert len(server.batches) == 3
    assert all(b["metadata"]["medllava_batch"] for b in server.batches.values())
    again = run(server, tmp_path, REQUESTS)
    assert [o.reply for o in again] == [o.reply for o in outcomes]
    assert not any(o.is_new for o in again)
    assert server.paid.total() == 10


def test_items_that_fail_or_expire_are_sent_again(server: LoopbackBatches, tmp_path: Path) -> None:
    server.item_faults = {"q1": ["500"], "q2": ["expired"], "q3": ["missing"], "q5": ["500"] * 2}
    outcomes = run(server, tmp_path, REQUESTS)
    assert all(o.reply for o in outcomes)
    assert set(server.paid.values()) == {1}


def test_an_item_that_is_refused_is_not_sent_again(server: LoopbackBatches, tmp_path: Path) -> None:
    server.item_faults = {"q1": ["400"], "q7": ["500"] * 9}
    outcomes = run(server, tmp_path, REQUESTS)
    assert outcomes[1].reason == "refused"
    assert "item failed with 400" in outcomes[1].detail
    assert outcomes[7].reason == "no_answer"
    assert "500" in outcomes[7].detail
    server.item_faults = {}
    assert [bool(o.reply) for o in run(server, tmp_path, REQUESTS)] == [i != 1 for i in range(10)]


def test_a_garbled_line_costs_only_itself(server: LoopbackBatches, tmp_path: Path) -> None:
    server.item_faults = {"q1": ["garbled"]}
    outcomes = run(server, tmp_path, REQUESTS)
    assert all(o.reply for o in outcomes)
    assert server.paid["q1"] == 2  # its first answer could not be told from noise
    assert list(tmp_path.glob("*.damaged.jsonl"))


def test_every_call_survives_a_busy_server(server: LoopbackBatches, tmp_path: Path) -> None:
    calls = (
        "POST /files",
        "POST /batches",
        "GET /batches",
        "GET /batches/ID",
        "GET /files/content",
    )
    server.call_faults = {call: [503, 429, 500] for call in calls}
    assert all(o.reply for o in run(server, tmp_path, REQUESTS[:4]))
    assert all(faults == [] for faults in server.call_faults.values())
    assert len(server.batches) == 1


class Killed(Exception):  # noqa: N818 - it is no error
    """Stands for the end of the process."""


@pytest.mark.parametrize("call", ["POST /files", "POST /batches", "GET /batches/ID"])
def test_a_run_picks_up_the_batches_of_one_that_was_cut_off(
    server: LoopbackBatches, tmp_path: Path, call: str
) -> None:
    """The server has done what was asked, but the run ends before it hears of it."""
    gone = threading.Event()

    def cut(made: str) -> None:
        if made == call and not gone.is_set():
            gone.set()
            raise Killed

    server.on_call = cut
    limits = {"poll_seconds": 0.01, "most_requests": 50}
    model = OpenAIModel(
        "m", base_url=server.url, timeout_seconds=5, max_retries=0, retry_seconds=0.01
    )
    with Ledger(tmp_path / "ledger.jsonl") as ledger, pytest.raises(RemoteError):
        list(
            run_batches(
                model,
                REQUESTS,
                ledger=ledger,
                folder=tmp_path,
                limits=BatchLimits(**limits),  # type: ignore[arg-type]
            )
        )
    assert gone.is_set()
    outcomes = run(server, tmp_path, REQUESTS, **limits)
    assert all(o.reply for o in outcomes)
    assert len(server.batches) == 1
    assert server.paid.total() == 10


def test_a_batch_is_found_behind_many_others(server: LoopbackBatches, tmp_path: Path) -> None:
    def cut(made: str) -> None:
        if made == "POST /batches" and len(server.batches) == 1:
            for _ in range(7):
                server.make_batch({"endpoint": "", "input_file_id": "file-0", "metadata": None})
            raise Killed

    server.on_call = cut
    outcomes = run(server, tmp_path, REQUESTS, most_requests=50)
    assert all(o.reply for o in outcomes)
    assert len(server.batches) == 8
    assert server.paid.total() == 10


def test_a_budget_bounds_what_is_submitted_at_the_batch_price(
    server: LoopbackBatches, tmp_path: Path
) -> None:
    requests = [ask(f"q{i}", max_new_tokens=4) for i in range(10)]
    price = Price(input_per_million=0, output_per_million=1e6, batch_factor=0.5)
    outcomes = run(server, tmp_path, requests, price=price, max_cost_usd=7.0)
    # Each may cost two dollars and costs one and a half: three, then one more.
    answered = [o for o in outcomes if o.reply]
    assert sum(o.cost_usd for o in answered) <= 7.0
    assert [o.reason for o in outcomes if not o.reply] == ["over_budget"] * (10 - len(answered))
    assert len(answered) >= 3
    assert all(o.reply for o in run(server, tmp_path, requests, price=price))
    assert server.paid.total() == 10


def test_the_file_holds_whole_requests(server: LoopbackBatches, tmp_path: Path) -> None:
    run(server, tmp_path, [ask("q", response_schema={"type": "object"})])
    line = json.loads(server.files["file-0"])
    assert line["url"] == "/v1/chat/completions"
    assert line["body"]["response_format"]["type"] == "json_schema"
    assert line["body"]["messages"] == [{"role": "user", "content": "q"}]


def test_a_batch_that_is_too_large_is_sent_in_smaller_ones(
    server: LoopbackBatches, tmp_path: Path
) -> None:
    server.most_items = 3
    outcomes = run(server, tmp_path, REQUESTS, most_requests=50)
    assert all(o.reply for o in outcomes)
    assert set(server.paid.values()) == {1}


def test_the_errors_of_a_batch_are_shown(server: LoopbackBatches, tmp_path: Path) -> None:
    server.most_items = 0
    outcomes = run(server, tmp_path, REQUESTS[:3])
    assert outcomes[0].reply
    assert {o.reason for o in outcomes[1:]} == {"no_answer"}
    assert "Enqueued token limit reached" in outcomes[1].detail
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        assert ledger.maybe_paid == 0


def test_one_request_is_asked_singly_before_a_batch_is_made(
    server: LoopbackBatches, tmp_path: Path
) -> None:
    server.rejects = lambda body: (
        (400, {"message": "Unsupported parameter: 'max_tokens'.", "param": "max_tokens"})
        if "max_tokens" in body
        else None
    )
    assert all(o.reply for o in run(server, tmp_path, REQUESTS))
    lines = [json.loads(line) for file in server.files.values() for line in file.splitlines()]
    bodies = [line["body"] for line in lines if "body" in line]
    assert len(bodies) == 9
    assert not any("max_tokens" in body for body in bodies)
    server.rejects = lambda _: (404, {"message": "no such model"})
    with pytest.raises(RemoteError, match="no such model"):
        run(server, tmp_path / "other", REQUESTS)
    assert len(server.batches) == 3

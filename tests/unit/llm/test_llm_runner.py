import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from llm_server import LoopbackModel, ask

from medllava.errors import DataError, RecordError, RemoteError
from medllava.llm.client import OpenAIModel
from medllava.llm.ledger import Ledger
from medllava.llm.payload import request_key
from medllava.llm.prices import Price, find_price
from medllava.llm.protocol import AccessError, ChatReply, ChatRequest
from medllava.llm.runner import Limits, Outcome, run_requests
from medllava.llm.tokens import estimate_tokens


def model_at(server: LoopbackModel, **more: object) -> OpenAIModel:
    more = {"timeout_seconds": 5.0, "retry_seconds": 0.01, **more}
    return OpenAIModel("m", base_url=server.url, **more)  # type: ignore[arg-type]


def run(
    server: LoopbackModel, path: Path, requests: list[ChatRequest], **more: object
) -> list[Outcome]:
    limits = Limits(**more.pop("limits", {"concurrency": 4}))  # type: ignore[arg-type]
    with Ledger(path) as ledger:
        model = model_at(server, max_retries=more.pop("max_retries", 8))
        return list(run_requests(model, requests, ledger=ledger, limits=limits, **more))  # type: ignore[arg-type]


def test_outcomes_come_in_the_order_of_the_requests(server: LoopbackModel, tmp_path: Path) -> None:
    requests = [ask(f"q{i}") for i in range(50)]
    server.faults = {f"q{i}": ["500"] for i in range(0, 50, 7)}
    outcomes = run(server, tmp_path / "ledger.jsonl", requests)
    assert [o.request.request_id for o in outcomes] == [r.request_id for r in requests]
    assert all(o.reply and o.reply.text == f"You said: q{i}" for i, o in enumerate(outcomes))
    assert server.most_in_flight <= 4


def test_a_second_run_asks_nothing(server: LoopbackModel, tmp_path: Path) -> None:
    requests = [ask(f"q{i}") for i in range(10)]
    first = run(server, tmp_path / "ledger.jsonl", requests)
    second = run(server, tmp_path / "ledger.jsonl", requests)
    assert len(server.bodies) == 10
    assert [o.reply for o in first] == [o.reply for o in second]
    assert not any(o.is_new for o in second)


def test_a_changed_request_is_asked_again(server: LoopbackModel, tmp_path: Path) -> None:
    run(server, tmp_path / "ledger.jsonl", [ask("q")])
    run(server, tmp_path / "ledger.jsonl", [ask("q", temperature=0.3)])
    assert server.paid["q"] == 2


def test_every_reply_is_on_disk_before_its_thread_asks_again(
    server: LoopbackModel, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.jsonl"
    missing = []

    def answer(text: str) -> str:
        number = int(text[1:])
        on_disk = path.read_text().count('"event": "reply"')
        if on_disk < number:
            missing.append(number)
        return "yes"

    server.answer = answer
    run(server, path, [ask(f"q{i}") for i in range(20)], limits={"concurrency": 1})
    assert missing == []


def test_requests_are_read_as_they_are_needed(server: LoopbackModel, tmp_path: Path) -> None:
    taken = 0

    def endless() -> Iterator[ChatRequest]:
        nonlocal taken
        while True:
            taken += 1
            yield ask(f"q{taken}")

    with Ledger(tmp_path / "l.jsonl") as ledger:
        limits = Limits(concurrency=2, window=8)
        outcomes = run_requests(model_at(server), endless(), ledger=ledger, limits=limits)
        for _ in range(5):
            next(outcomes)
        outcomes.close()
    assert taken <= 8 + 5


def test_nothing_is_sent_that_could_pass_the_budget(server: LoopbackModel, tmp_path: Path) -> None:
    price = Price(input_per_million=0.0, output_per_million=1e6)
    requests = [ask(f"q{i}", max_new_tokens=4) for i in range(9)]
    outcomes = run(
        server,
        tmp_path / "l.jsonl",
        requests,
        price=price,
        limits={"concurrency": 3, "max_cost_usd": 13.0},
    )
    # A reply costs three dollars and may cost four, so the fourth one fits and the fifth does not.
    assert server.paid.total() == 4
    assert sum(o.cost_usd for o in outcomes) == 12.0
    left = [o for o in outcomes if o.reason == "over_budget"]
    assert len(left) == 5
    more = run(server, tmp_path / "l.jsonl", requests, price=price)
    assert all(o.reply for o in more)
    assert server.paid.total() == 9


def test_a_request_in_flight_at_a_kill_counts_as_spent(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    with Ledger(path) as ledger:
        ledger.ask("aa" * 16, "q", most_usd=2.0)
    with path.open("a") as handle:
        handle.write('{"event": "reply", "key": "aa')
    with Ledger(path) as ledger:
        assert ledger.unsettled == 1
        assert ledger.committed_usd == 2.0
        ledger.ask("aa" * 16, "q", most_usd=2.0)
        reply = ChatReply(request_id="q", text="yes", input_tokens=5, output_tokens=1)
        ledger.settle("aa" * 16, reply, cost_usd=1.5)
        assert ledger.committed_usd == 3.5  # the first may have been paid for
        assert ledger.times_asked == 2
    with Ledger(path) as ledger:
        assert ledger.spent_usd == 1.5
        assert (ledger.input_tokens, ledger.output_tokens) == (5, 1)
        found = ledger.find("aa" * 16)
        assert found
        assert found.reply == reply


def test_a_damaged_ledger_is_named_and_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    path.write_text('{"event": "reply"}\n')
    with pytest.raises(RecordError, match=r"l\.jsonl, line 1"):
        Ledger(path)
    assert path.read_text() == '{"event": "reply"}\n'


def test_a_refused_request_does_not_end_the_run(server: LoopbackModel, tmp_path: Path) -> None:
    server.rejects = lambda body: (
        (400, {"message": "content filter"}) if "bad" in str(body["messages"]) else None
    )
    outcomes = run(server, tmp_path / "l.jsonl", [ask("a"), ask("bad"), ask("c")])
    assert [bool(o.reply) for o in outcomes] == [True, False, True]
    assert outcomes[1].reason == "refused"
    assert "content filter" in outcomes[1].detail
    run(server, tmp_path / "l.jsonl", [ask("a"), ask("bad"), ask("c")])
    assert server.seen["bad"] == 1


def test_a_request_without_an_answer_is_asked_again_in_the_next_run(
    server: LoopbackModel, tmp_path: Path
) -> None:
    server.faults["b"] = ["500", "500"]
    requests = [ask("a"), ask("b"), ask("c")]
    outcomes = run(server, tmp_path / "l.jsonl", requests, max_retries=1)
    assert [o.reason for o in outcomes] == ["", "no_answer", ""]
    assert all(o.reply for o in run(server, tmp_path / "l.jsonl", requests))
    assert server.paid == {"a": 1, "b": 1, "c": 1}


def test_no_access_ends_the_run_and_keeps_what_was_answered(
    server: LoopbackModel, tmp_path: Path
) -> None:
    server.rejects = lambda body: (
        (429, {"message": "pay", "code": "insufficient_quota"})
        if "q7" in str(body["messages"])
        else None
    )
    with pytest.raises(AccessError):
        run(server, tmp_path / "l.jsonl", [ask(f"q{i}") for i in range(500)])
    assert len(server.bodies) < 100
    with Ledger(tmp_path / "l.jsonl") as ledger:
        assert len(ledger) == server.paid.total()


def test_a_service_that_is_gone_ends_the_run(server: LoopbackModel, tmp_path: Path) -> None:
    server.rejects = lambda _: (503, {"message": "gone"})
    with pytest.raises(RemoteError, match="no answer after"):
        run(server, tmp_path / "l.jsonl", [ask(f"q{i}") for i in range(500)], max_retries=0)
    assert len(server.bodies) < 60


@pytest.mark.parametrize(
    "limits", [{"requests_per_minute": 1200.0}, {"tokens_per_minute": 1200.0 * 107}]
)
def test_requests_keep_to_the_rate(
    server: LoopbackModel, tmp_path: Path, limits: dict[str, float]
) -> None:
    requests = [ask(f"q{i}", max_new_tokens=100) for i in range(9)]
    assert estimate_tokens(requests[0]) == 7
    started = time.monotonic()
    run(server, tmp_path / "l.jsonl", requests, limits={"concurrency": 9, **limits})
    # Nine requests at one in 50 ms: the last begins after 400 ms.
    assert server.times[-1] - started >= 0.4


def test_threads_share_the_ledger_without_losing_a_line(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    with Ledger(path) as ledger:

        def write(thread: int) -> None:
            for i in range(20):
                key = request_key("m", ask(f"{thread}-{i}"))
                ledger.ask(key, f"{thread}-{i}", most_usd=1.0)
                ledger.settle(key, ChatReply(request_id=f"{thread}-{i}", text="x" * 500))

        threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(json.loads(line) for line in path.read_text().splitlines())
    with Ledger(path) as ledger:
        assert len(ledger) == 160
        assert ledger.unsettled == 0
        found = ledger.find(request_key("m", ask("3-7")))
        assert found
        assert found.reply
        assert found.reply.request_id == "3-7"


def test_a_users_price_goes_before_ours(tmp_path: Path) -> None:
    table = tmp_path / "prices.toml"
    table.write_text(
        '["gpt-4o"]\ninput_per_million = 1\noutput_per_million = 2\n["mine"]\n'
        "input_per_million = 0\noutput_per_million = 0.5\nbatch_factor = 0.25\n"
    )
    dated = find_price("gpt-4o-2024-11-20", table=table)
    assert dated
    assert dated.cost(1_000_000, 1_000_000) == 3.0
    mine = find_price("mine", table=table)
    assert mine
    assert mine.cost(10, 1_000_000, batch=True) == 0.125
    mini = find_price("gpt-4o-mini")
    assert mini
    assert mini.input_per_million == 0.15
    assert find_price("somebody-else") is None


@pytest.mark.parametrize("text", ["[a", "a = 1", '["a"]\ninput_per_million = "x"', '["a"]\nb = 1'])
def test_a_price_table_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "prices.toml").write_text(text)
    with pytest.raises(DataError, match=r"prices\.toml"):
        find_price("a", table=tmp_path / "prices.toml")

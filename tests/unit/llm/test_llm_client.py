import base64
import io
import json
import logging
import threading
import time
from pathlib import Path

import pytest
from llm_server import LoopbackModel, ask
from PIL import Image

from medllava.errors import DataError, RemoteError, SetupError
from medllava.llm.address import parse_address
from medllava.llm.client import OpenAIModel
from medllava.llm.protocol import AccessError, ChatRequest, Message, RequestRefusedError


def model_at(server: LoopbackModel, **more: object) -> OpenAIModel:
    more = {"timeout_seconds": 0.3, "retry_seconds": 0.01, **more}
    return OpenAIModel("m", base_url=server.url, **more)  # type: ignore[arg-type]


def test_a_reply_carries_text_tokens_and_the_servers_own_model_name(server: LoopbackModel) -> None:
    reply = model_at(server).reply(ask("one two three", seed=7))
    assert reply.text == "You said: one two three"
    assert (reply.input_tokens, reply.output_tokens) == (3, 5)
    assert reply.model == "m-2025-01-01"
    assert reply.finish_reason == "stop"
    assert server.bodies[0]["seed"] == 7


@pytest.mark.parametrize("fault", ["429", "500", "503", "reset"])
def test_a_fault_is_tried_again_and_paid_once(server: LoopbackModel, fault: str) -> None:
    server.faults["x"] = [fault, fault]
    assert model_at(server).reply(ask("x")).text == "You said: x"
    assert server.seen["x"] == 3
    assert server.paid["x"] == 1


@pytest.mark.parametrize("fault", ["hang", "cut", "malformed", "no-choices"])
def test_what_may_have_been_paid_for_is_asked_once_more_and_no_more(
    server: LoopbackModel, fault: str
) -> None:
    server.hang_seconds = 0.5
    server.faults["x"] = [fault]
    assert model_at(server).reply(ask("x")).text == "You said: x"
    assert server.seen["x"] == 2
    assert server.paid["x"] == 1
    server.faults["y"] = [fault] * 9
    with pytest.raises(RemoteError, match="Nothing more is spent on it"):
        model_at(server).reply(ask("y"))
    assert server.seen["y"] == 2


def test_retry_after_is_honoured_by_every_thread(server: LoopbackModel) -> None:
    server.faults["first"] = ["429"]
    server.retry_after = "0.4"
    model = model_at(server)
    started = time.monotonic()
    thread = threading.Thread(target=model.reply, args=(ask("first"),))
    thread.start()
    while not server.times:
        time.sleep(0.005)
    time.sleep(0.1)
    model.reply(ask("second"))
    thread.join()
    assert all(seen - started >= 0.4 for seen in server.times[1:])


def test_a_retry_after_of_hours_ends_the_wait_with_a_message(server: LoopbackModel) -> None:
    server.faults["x"] = ["429"]
    server.retry_after = "7200"
    with pytest.raises(RemoteError, match=r"asks to wait 7200 seconds"):
        model_at(server).reply(ask("x"))


def test_no_answer_after_all_retries_names_the_server_and_the_status(
    server: LoopbackModel,
) -> None:
    server.faults["x"] = ["503"] * 3
    with pytest.raises(RemoteError, match=r"after 3 attempts .*503.*127\.0\.0\.1"):
        model_at(server, max_retries=2).reply(ask("x"))


def test_a_server_without_structured_output_is_asked_for_plain_text(
    server: LoopbackModel,
) -> None:
    server.rejects = lambda body: (
        (400, {"message": "what is this field?", "code": 400})
        if "response_format" in body
        else None
    )
    model = model_at(server)
    assert model.reply(ask("a", response_schema={"type": "object"})).text == "You said: a"
    model.reply(ask("b", response_schema={"type": "object"}))
    assert ["response_format" in body for body in server.bodies] == [True, False, False]


def test_structured_output_is_kept_when_something_else_was_wrong(server: LoopbackModel) -> None:
    server.rejects = lambda body: (
        (400, {"message": "context is too long", "code": 400})
        if "long" in str(body["messages"])
        else None
    )
    model = model_at(server)
    with pytest.raises(RequestRefusedError, match="context is too long"):
        model.reply(ask("long", response_schema={"type": "object"}))
    model.reply(ask("short", response_schema={"type": "object"}))
    assert server.bodies[-1]["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_parameters_that_a_model_does_not_know_are_left_out(server: LoopbackModel) -> None:
    def reject(body: dict[str, object]) -> tuple[int, dict[str, object]] | None:
        for name in ("max_tokens", "temperature"):
            if name in body:
                return 400, {"message": f"Unsupported parameter: '{name}'.", "param": name}
        return None

    server.rejects = reject
    model = model_at(server)
    model.reply(ask("a", max_new_tokens=77))
    assert server.bodies[-1]["max_completion_tokens"] == 77
    assert "temperature" not in server.bodies[-1]
    before = len(server.bodies)
    model.reply(ask("b"))
    assert len(server.bodies) == before + 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_no_access_is_not_tried_again(server: LoopbackModel, status: int) -> None:
    server.rejects = lambda _: (status, {"message": "no such model"})
    with pytest.raises(AccessError, match=rf"status {status}"):
        model_at(server).reply(ask("x"))
    assert server.seen["x"] == 1


def test_an_empty_purse_is_not_a_rate_limit(server: LoopbackModel) -> None:
    server.rejects = lambda _: (429, {"message": "pay", "code": "insufficient_quota"})
    with pytest.raises(AccessError, match="quota"):
        model_at(server).reply(ask("x"))
    assert server.seen["x"] == 1


def test_the_key_comes_from_the_environment_and_is_never_shown(
    server: LoopbackModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    server.rejects = lambda _: (500, {"message": "broken for sk-very-secret"})
    with caplog.at_level(logging.DEBUG, "medllava"), pytest.raises(RemoteError) as raised:
        model_at(server, max_retries=1).reply(ask("x"))
    assert server.headers[0]["authorization"] == "Bearer sk-very-secret"
    assert "secret" not in str(raised.value) + caplog.text


def test_openai_without_a_key_says_what_to_set() -> None:
    with pytest.raises(SetupError, match="OPENAI_API_KEY"):
        OpenAIModel("gpt-4o")
    with pytest.raises(SetupError, match="AZURE_OPENAI_API_KEY"):
        OpenAIModel("gpt-4o", base_url="https://lab.openai.azure.com")


def test_both_forms_of_an_azure_address_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "k")
    old = OpenAIModel("d", base_url="https://lab.openai.azure.com")
    assert "api-version" in old.client.default_query
    new = OpenAIModel("d", base_url="https://lab.openai.azure.com/openai/v1/")
    assert "api-version" not in new.client.default_query


KEYED = "https://lab.openai.azure.com/openai/deployments/d/chat/completions"


@pytest.mark.parametrize(
    ("given", "url", "version"),
    [
        ("https://lab.openai.azure.com", KEYED, "2024-10-21"),
        ("https://lab.openai.azure.com/", KEYED, "2024-10-21"),
        ("lab.openai.azure.com", KEYED, "2024-10-21"),
        ("https://lab.openai.azure.com/openai", KEYED, "2024-10-21"),
        ("https://lab.openai.azure.com/openai/deployments/d", KEYED, "2024-10-21"),
        (f"{KEYED}?api-version=2025-01-01-preview", KEYED, "2025-01-01-preview"),
        (
            "https://lab.openai.azure.com/openai/v1/chat/completions?api-version=preview",
            "https://lab.openai.azure.com/openai/v1/chat/completions",
            "preview",
        ),
        (
            "https://lab.openai.azure.com/openai/v1",
            "https://lab.openai.azure.com/openai/v1/chat/completions",
            None,
        ),
        (
            "https://lab.services.ai.azure.com/models/chat/completions?api-version=2024-05-01",
            "https://lab.services.ai.azure.com/models/chat/completions",
            "2024-05-01",
        ),
        (
            "https://lab.cognitiveservices.azure.com/",
            "https://lab.cognitiveservices.azure.com/openai/deployments/d/chat/completions",
            "2024-10-21",
        ),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1/chat/completions", None),
        ("localhost:8000/v1", "http://localhost:8000/v1/chat/completions", None),
        (
            "http://localhost:8000/v1/chat/completions",
            "http://localhost:8000/v1/chat/completions",
            None,
        ),
    ],
)
def test_an_address_is_understood_as_people_paste_it(
    monkeypatch: pytest.MonkeyPatch, given: str, url: str, version: str | None
) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "k")
    address = parse_address(given, model="d")
    assert f"{address.base}/chat/completions" == url
    assert address.query.get("api-version") == version
    assert ("api-key" in address.headers) == ("azure" in given)


@pytest.mark.parametrize(
    "given", ["http://", "ftp://x/v1", "http://host:port/v1", "http://[::1/v1"]
)
def test_what_is_no_address_is_named(given: str) -> None:
    with pytest.raises(SetupError, match="not an address"):
        parse_address(given, model="d")


def test_images_travel_inside_the_request(server: LoopbackModel, tmp_path: Path) -> None:
    Image.new("L", (3, 2), 200).save(tmp_path / "a.png")
    Image.new("L", (3, 2), 200).save(tmp_path / "b.tif")
    images = (str(tmp_path / "a.png"), str(tmp_path / "b.tif"), "data:image/png;base64,AAAA")
    message = Message(role="user", content="what?", images=images)
    model_at(server).reply(ChatRequest(request_id="1", messages=(message,)))
    parts = server.bodies[0]["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url"] * 3 + ["text"]
    for part in parts[:2]:
        kind, data = part["image_url"]["url"].split(",")
        assert kind == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (3, 2)
    assert parts[2]["image_url"]["url"] == images[2]


def test_an_image_that_is_none_is_named(server: LoopbackModel, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not an image")
    message = Message(role="user", content="what?", images=(str(tmp_path / "a.png"),))
    with pytest.raises(DataError, match=r"a\.png"):
        model_at(server).reply(ChatRequest(request_id="1", messages=(message,)))


def test_a_stream_arrives_in_pieces_after_retries(server: LoopbackModel) -> None:
    server.faults["x y"] = ["429", "500"]
    pieces = list(model_at(server).stream(ask("x y")))
    assert len(pieces) > 2
    assert "".join(pieces) == "You said: x y"


def test_a_stream_that_breaks_off_is_an_error_and_not_an_end(server: LoopbackModel) -> None:
    server.faults["x y"] = ["cut"]
    said = []
    with pytest.raises(RemoteError, match="broke off"):
        said.extend(model_at(server).stream(ask("x y")))


def test_the_same_request_has_the_same_key_in_every_run(server: LoopbackModel) -> None:
    for _ in range(2):
        model_at(server).reply(ask("x"))
    model_at(server).reply(ask("x", temperature=0.5))
    keys = [headers["idempotency-key"] for headers in server.headers]
    assert keys[0] == keys[1] != keys[2]
    assert json.dumps(server.bodies[0]) == json.dumps(server.bodies[1])

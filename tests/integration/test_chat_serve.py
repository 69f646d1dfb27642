"""`medllava chat --base-url` and `transformers serve` on a checkpoint of ours, with an image."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from chat_colours import plain
from PIL import Image
from typer.testing import CliRunner

from medllava.chat.remote import RemoteConversation
from medllava.cli.app import app
from medllava.llm.client import OpenAIModel
from medllava.model.sampling import Sampling

pytest_plugins = ["chat_colours"]
SECONDS = 200.0
needs_server = pytest.mark.skipif(
    importlib.util.find_spec("fastapi") is None, reason="needs the extra `serve`"
)


@pytest.fixture(scope="module")
def served(colour_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a `transformers serve` that answers with the colour model."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    arguments = ["serve", str(colour_checkpoint), "--host", "127.0.0.1", "--port", str(port)]
    code = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-c", code, *arguments, "--device", "cpu"],
            stdout=output,
            stderr=output,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(log.parent)},
        ) as process,
    ):
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + SECONDS
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < give_up, log.read_text()
        try:
            if httpx.get(address).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            time.sleep(0.2)


@needs_server
def test_questions_about_an_image_are_answered_by_the_server(
    served: str, colour_checkpoint: Path, tmp_path: Path
):
    plain("green").save(tmp_path / "green.png")
    arguments = ["chat", str(tmp_path / "green.png"), "--ckpt", str(colour_checkpoint)]
    result = CliRunner().invoke(
        app, [*arguments, "--base-url", served, "--json"], input="Which colour?\nAre you sure?\n"
    )
    assert result.exit_code == 0, result.output
    objects = [json.loads(line)["summary"] for line in result.stdout.splitlines()]
    assert [o["text"] for o in objects] == ["It is green.", "Yes, green."]
    assert [o["finish_reason"] for o in objects] == ["stop", "stop"]


@needs_server
def test_the_answer_is_streamed_and_closing_it_stops_the_server(
    served: str, colour_checkpoint: Path
):
    model = OpenAIModel(str(colour_checkpoint), base_url=served, max_retries=0)
    conversation = RemoteConversation(model, Sampling(max_new_tokens=900))
    pieces = conversation.ask("Sing.", [plain("red")])
    heard = [next(pieces) for _ in range(4)]
    pieces.close()
    assert conversation.turns[-1].content == "".join(heard).strip()
    assert conversation.last_answer.finish_reason == "interrupted"
    conversation.clear()
    started = time.monotonic()
    assert "".join(conversation.ask("Which colour?", [plain("red")])) == "It is red."
    assert time.monotonic() - started < 60


@needs_server
def test_a_limit_is_told_apart_from_an_end(served: str, colour_checkpoint: Path):
    model = OpenAIModel(str(colour_checkpoint), base_url=served, max_retries=0)
    conversation = RemoteConversation(model, Sampling(max_new_tokens=3))
    list(conversation.ask("Which colour?", [plain("red")]))
    assert conversation.last_answer.finish_reason == "length"


def test_a_server_that_is_not_there_is_a_remote_error_soon(tmp_path: Path):
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    started = time.monotonic()
    arguments = ["chat", str(tmp_path / "image.png"), "--ckpt", "m", "--base-url", address]
    result = CliRunner().invoke(app, [*arguments, "--prompt", "What is this?", "--json"])
    assert result.exit_code == 5
    error = json.loads(result.stdout)["error"]
    assert error["type"] == "RemoteError"
    assert "127.0.0.1" in error["message"]
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("option", [["--top-p", "0.9"], ["--load", "4bit"], ["--dtype", "fp16"]])
def test_options_that_a_server_would_not_see_are_refused(option: list[str]):
    result = CliRunner().invoke(app, ["chat", "--base-url", "http://127.0.0.1:9/v1", *option])
    assert result.exit_code == 2
    assert option[0] in result.stderr

"""`--backend vllm` starts the server itself; a small program named `vllm` stands for it on PATH."""

import os
import subprocess
import sys
import time

import pytest

from medllava.errors import SetupError
from medllava.eval.config import Backend, DecodingConfig, EvalConfig
from medllava.eval.run import evaluate_task
from medllava.llm.vllm_server import is_served, vllm_server
from medllava.store import iter_jsonl

NOBODY = "http://127.0.0.1:9/v1"
PROGRAM = """#!{python}
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

print("loading", sys.argv[2], flush=True)
if sys.argv[2].endswith("broken"):
    sys.exit("ValueError: no such architecture")
options = dict(zip(sys.argv[3::2], sys.argv[4::2]))
assert options["--host"] == "127.0.0.1"
open(os.environ["VLLM_PID"], "w").write(str(os.getpid()) + " " + json.dumps(options))


class Handler(BaseHTTPRequestHandler):
    def send(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.send({{"data": [{{"id": sys.argv[2]}}]}})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["model"] == sys.argv[2]
        message = {{"role": "assistant", "content": "yes"}}
        choice = {{"index": 0, "finish_reason": "stop", "message": message}}
        self.send({{"id": "1", "object": "chat.completion", "created": 0, "model": asked["model"],
                   "choices": [choice]}})

    def log_message(self, *_): ...


ThreadingHTTPServer(("127.0.0.1", int(options["--port"])), Handler).serve_forever()
"""


@pytest.fixture
def vllm(tmp_path, monkeypatch):
    """The program on PATH, and the file in which it says its process and options."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "vllm"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("VLLM_PID", str(tmp_path / "pid"))
    return tmp_path / "pid"


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_end(pid):
    for _ in range(100):
        if not is_alive(pid):
            return
        time.sleep(0.1)
    raise AssertionError("the server outlived its starter")


def config_of(task_file, output_dir, **changes):
    return EvalConfig(
        task=str(task_file),
        checkpoint=str(task_file.parent),
        output_dir=output_dir,
        backend=Backend.VLLM,
        base_url=NOBODY,
        decoding=DecodingConfig(max_new_tokens=3),
        draws=20,
        **changes,
    )


def test_a_server_is_started_asked_and_ended(task_file, tmp_path, vllm, monkeypatch):
    monkeypatch.setattr(
        "medllava.eval.ask.describe.describe_model",
        lambda source: {"source": source, "weights_sha256": None},
    )
    summary = evaluate_task(config_of(task_file, tmp_path / "out", gpus=2))
    assert {line["text"] for _, line in iter_jsonl(summary.artifacts["predictions"])} >= {"yes"}
    pid, options = vllm.read_text().split(" ", 1)
    assert '"--tensor-parallel-size": "2"' in options
    wait_for_end(int(pid))
    assert "loading" in (tmp_path / "out/answers/vllm.log").read_text()
    # All is answered, so nothing is started again.
    vllm.unlink()
    evaluate_task(config_of(task_file, tmp_path / "out", gpus=2))
    assert not vllm.exists()


def test_what_does_not_start_is_told_with_its_last_words(tmp_path, vllm):
    with (
        pytest.raises(SetupError, match=r"cannot serve .*broken \(exit 1\).*no such architecture"),
        vllm_server(str(tmp_path / "broken"), log=tmp_path / "log"),
    ):
        pass


def test_without_vllm_it_says_how(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(SetupError, match=r"pip install vllm.*--backend http://HOST:8000/v1"),
        vllm_server("CKPT", log=tmp_path / "log"),
    ):
        pass
    assert not is_served(NOBODY)


def test_the_server_ends_with_a_starter_that_is_killed(tmp_path, vllm):
    code = (
        "import pathlib, time\n"
        "from medllava.llm.vllm_server import vllm_server\n"
        f"with vllm_server('m', log=pathlib.Path({str(tmp_path / 'log')!r})):\n"
        "    print('serving', flush=True)\n"
        "    time.sleep(60)\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert starter.stdout.readline() == "serving\n"
    pid = int(vllm.read_text().split()[0])
    assert is_alive(pid)
    starter.kill()
    starter.communicate()
    wait_for_end(pid)

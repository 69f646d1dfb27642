import resource
import subprocess
import sys

import pytest

COMMANDS = ("fetch-pmc", "generate-instructions", "train", "eval", "chat", "push")
HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "numpy",
    "PIL",
    "lxml",
    "httpx",
    "jinja2",
    "pyarrow",
    "pandas",
    "huggingface_hub",
    "openai",
    "deepspeed",
    "evaluate",
    "gradio",
}


def loaded_by(*arguments: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after the command line ran."""
    code = (
        "import sys\nfrom medllava.cli.app import app\n"
        f"try: app({list(arguments)!r})\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "print('LOADED', *{m.split('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rsplit("LOADED", 1)[1].split())


@pytest.mark.parametrize("arguments", [["--help"], *([c, "--help"] for c in COMMANDS)])
def test_help_loads_no_heavy_module(arguments: list[str]):
    assert not loaded_by(*arguments) & HEAVY


def test_help_lists_the_six_commands_quickly():
    def children_seconds() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    def run() -> float:
        start = children_seconds()
        done = subprocess.run(
            [sys.executable, "-m", "medllava", "--help"], capture_output=True, text=True, check=True
        )
        assert all(command in done.stdout for command in COMMANDS)
        return children_seconds() - start

    # The budget is 0.3 s on a quiet machine; processor time does not count waiting for others.
    assert min(run() for _ in range(3)) < 0.6

"""A short run of `tests/benchmarks/cli_fuzz.py`: every command line ends with one object."""

from pathlib import Path

import pytest
from cli_fuzz import COMMANDS, fuzz, prepare


@pytest.mark.parametrize("command", COMMANDS)
def test_any_command_line_ends_with_a_code_and_one_object(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)  # relative names are written here, if anywhere
    assert fuzz(command, tmp_path, seed=1, count=12) == []

import json
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from medllava.cli.app import app


def test_an_unknown_recipe_names_the_nearest_and_exits_3():
    result = CliRunner().invoke(app, ["train", "smollm2-135", "--stage", "1", "--dry-run"])
    assert result.exit_code == 3
    assert "did you mean smollm2-135m?" in result.stderr
    assert result.stdout == ""


def test_under_json_an_error_is_exactly_one_object_on_stdout():
    result = CliRunner().invoke(app, ["train", "nope", "--stage", "1", "--dry-run", "--json"])
    value = json.loads(result.stdout)
    assert value["status"] == "error"
    assert value["command"] == "train"
    assert value["error"]["exit_code"] == result.exit_code == 3
    assert value["error"]["type"] == "RecipeError"


def test_a_bad_option_is_a_usage_error():
    assert CliRunner().invoke(app, ["fetch-pmc", "--nonsense"]).exit_code == 2


def test_a_missing_input_exits_4_and_names_it(tmp_path: Path):
    missing = str(tmp_path / "nothing")
    result = CliRunner().invoke(
        app, ["generate-instructions", missing, "-o", str(tmp_path / "out"), "--stage", "align"]
    )
    assert result.exit_code == 4
    assert "nothing" in result.stderr


def test_the_module_runs_as_the_script_does():
    done = subprocess.run(
        [sys.executable, "-m", "medllava", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("medllava 0.")


def test_an_unknown_stage_is_a_usage_error():
    result = CliRunner().invoke(app, ["train", "--stage", "9"])
    assert result.exit_code == 2
    assert CliRunner().invoke(app, ["train"]).exit_code == 2

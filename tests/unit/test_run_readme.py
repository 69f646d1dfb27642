from pathlib import Path

from medllava.records import RunRecord
from medllava.run_readme import render_run_readme
from medllava.store import read_record

FIXTURE = Path(__file__).parents[1] / "fixtures" / "records" / "run-v1.json"


def test_a_finished_folder_says_what_it_is_and_what_to_type_next():
    run = read_record(FIXTURE, RunRecord)
    text = render_run_readme(run, Path("runs/two"))
    assert text.startswith("# debug, stage instruct\n")
    assert run.command in text
    assert f"| SHA-256 of the weights | {run.weights_sha256} |" in text
    assert "| records used | 24 |" in text
    assert "Not evaluated here" in text
    assert "medllava push runs/two OWNER/NAME --dry-run" in text


def test_what_a_run_does_not_say_is_unknown_and_never_zero():
    text = render_run_readme(RunRecord(), Path("x"))
    assert "| steps | unknown |" in text
    assert "unknown to unknown" in text
    assert "- unknown" in text

"""The same numbers as metrics of `evaluate`, without the network."""

import json
import os
import subprocess
import sys

import pytest

COLUMNS = {
    "predictions": ["There is a normal heart", "left left left", "Yes"],
    "references": ["no", "left lung", "yes"],
    "answer_types": ["closed", "open", "closed"],
    "questions": ["Is it normal?", "Where?", "Is there a mass?"],
}


def test_metrics_compute_and_combine():
    evaluate = pytest.importorskip("evaluate")
    from medllava.eval.score.metrics import (
        BiomedicalVqa,
        ClosedAccuracy,
        LlavaMedScores,
        TokenRecall,
    )

    assert issubclass(BiomedicalVqa, evaluate.Metric)
    found = BiomedicalVqa().compute(**COLUMNS)
    assert found["closed_accuracy"] == 0.5
    assert found["open_token_recall"] == 0.5
    assert found["open_bleu"] >= 0
    assert set(ClosedAccuracy().compute(**COLUMNS)) == {"closed_accuracy", "unparseable"}
    metric = TokenRecall()
    for row in zip(*COLUMNS.values(), strict=True):
        metric.add_batch(**{name: [value] for name, value in zip(COLUMNS, row, strict=True)})
    assert metric.compute()["open_token_recall"] == 0.5
    legacy = LlavaMedScores().compute(**COLUMNS)
    assert legacy["run_eval_batch.closed_accuracy"] == pytest.approx(100)
    assert legacy["run_eval_batch.recall"] == pytest.approx(75)


def test_other_code_loads_them_by_the_file_without_the_network(tmp_path):
    """In a process of its own: `evaluate` fixes its cache folder when it is imported."""
    pytest.importorskip("evaluate")
    code = """
import json, socket, sys
from importlib.util import find_spec

def refuse(*_, **__):
    raise AssertionError("asked the network")

socket.socket.connect = socket.getaddrinfo = refuse
import evaluate
metric = evaluate.load(find_spec("medllava.eval.score.metrics").origin)
print("FOUND", json.dumps(metric.compute(**json.loads(sys.argv[1]))))
"""
    own = {"HF_HOME": str(tmp_path), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(COLUMNS)],
        env=os.environ | own | {"HF_HUB_OFFLINE": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    from medllava.eval.score.metrics import BiomedicalVqa

    found = json.loads(result.stdout.rpartition("FOUND")[2])
    assert found == BiomedicalVqa().compute(**COLUMNS)
    assert found["closed_accuracy"] == 0.5

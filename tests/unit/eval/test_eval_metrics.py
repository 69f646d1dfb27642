"""The same numbers as metrics of `evaluate`, without the network."""

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

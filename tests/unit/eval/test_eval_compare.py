"""Two sets of answers compared: what the right image is worth to each, in one line."""

import json
from pathlib import Path

from medllava.eval.compare import compare_predictions, comparison_lines
from medllava.eval.config import EvalConfig

ANSWERS = ("liver", "kidney", "brain", "knee")


def write_lines(path: Path, lines: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def answers_of(path: Path, *, real: int, permuted: int | None) -> Path:
    """Answers of which so many are right, with the right image and with another."""
    lines: list[dict[str, object]] = []
    for condition, right in (("real", real), ("permuted", permuted)):
        for number, answer in enumerate(ANSWERS if right is not None else ()):
            text = answer if number < (right or 0) else "spleen"
            lines.append({"id": str(number), "condition": condition, "seed": 0, "text": text})
    return write_lines(path, lines)


def test_what_the_image_is_worth_before_and_after_is_one_line(tmp_path: Path) -> None:
    task = write_lines(
        tmp_path / "questions.jsonl",
        [
            {
                "id": str(number),
                "image": f"{number}.png",
                "question": "Which part is it?",
                "answer": answer,
                "answer_type": "open",
            }
            for number, answer in enumerate(ANSWERS)
        ],
    )
    config = EvalConfig(task=str(task), output_dir=tmp_path / "both", draws=50)
    before = answers_of(tmp_path / "before.jsonl", real=3, permuted=2)
    after = answers_of(tmp_path / "after.jsonl", real=3, permuted=0)
    lines = comparison_lines(compare_predictions(config, before, after))
    told = next(line for line in lines if line.startswith("visual gain"))
    assert told.startswith("visual gain, accuracy over all images: 25.0 -> 75.0 (+50.0 [")
    report = json.loads((tmp_path / "both/compare.json").read_text())
    assert report["metrics"]["accuracy"]["b_minus_a"]["value"] == 0
    assert report["visual_gain"]["accuracy"]["b_minus_a"]["value"] == 0.5

    alone = answers_of(tmp_path / "alone.jsonl", real=3, permuted=None)
    summary = compare_predictions(config, before, alone)
    assert "visual_gain" not in summary.details
    assert not any(line.startswith("visual gain") for line in comparison_lines(summary))

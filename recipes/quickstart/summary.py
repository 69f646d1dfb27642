"""Close the quickstart: a short table, the paths of what was made, and a page to look at.

The run folder in, `index.html` and a few printed lines out: loss curves of both stages, the scores
with their floors, and example answers beside their images.

    python recipes/quickstart/summary.py runs/quickstart
"""

import os
import sys
from pathlib import Path

from medllava import page
from medllava.records import Estimate, Estimates, EvalReport, Prediction
from medllava.store import iter_jsonl, read_json, read_record, write_text

NUM_EXAMPLES = 24
REAL = "real"
EXPECTED_GAIN = 20
"""Points of exact match that real images must be better than permuted ones."""


def main(run: Path) -> None:
    """Print the table and write the page."""
    report = read_record(run / "eval/report.json", EvalReport)
    rows = score_rows(report)
    width = max(len(str(row[0])) for row in rows)
    print(f"\n{'':{width}}  exact match        token recall")
    for name, exact, recall in rows:
        print(f"{name:{width}}  {exact:<18} {recall}")
    print(verdict(visual_gain(report)))
    write_text(run / "index.html", render(run, report, rows))
    print()
    for made in (
        "archive",
        "figures",
        "instructions",
        "stage1",
        "stage2",
        "eval/report.json",
        "eval/report.html",
        "push/README.md",
        "index.html",
    ):
        print(f"  {run / made}")


def visual_gain(report: EvalReport) -> Estimates:
    """Return real minus permuted images.

    Raises:
        SystemExit: the evaluation had no permuted images.
    """
    if report.visual_gain is None:
        sys.exit("eval/report.json has no visual gain: run eval with --controls permuted.")
    return report.visual_gain


def verdict(gain: Estimates) -> str:
    """Return whether the gain is what it should be, in a sentence."""
    value = gain["exact_match"].value
    if value is None:
        sys.exit("eval/report.json has no exact match: run eval on the questions again.")
    points = 100 * value
    words = "the model looks at the pictures" if points >= EXPECTED_GAIN else "fewer than expected"
    return f"real minus permuted: {points:.1f} points; {EXPECTED_GAIN} are expected: {words}"


def score_rows(report: EvalReport) -> list[tuple[str, str, str]]:
    """Return (condition, exact match, token recall) with 95 % intervals, in percent."""
    rows = {**report.conditions, "real minus permuted": visual_gain(report)}
    return [
        (name, _interval(metrics["exact_match"]), _interval(metrics["token_recall"]))
        for name, metrics in rows.items()
    ]


def render(run: Path, report: EvalReport, rows: list[tuple[str, str, str]]) -> str:
    """Return the page."""
    losses = {
        f"stage {stage}": [
            (float(m["step"]), float(m["loss"]))
            for _, m in iter_jsonl(run / f"stage{stage}/metrics.jsonl")
            if "loss" in m
        ]
        for stage in (1, 2)
    }
    headers = ("condition", "exact match, % [95 % interval]", "token recall, % [95 % interval]")
    return page.render_page(
        "medllava quickstart",
        subtitle=(
            "A 135M language model that learned to see in minutes on a CPU, from real images with "
            "generated questions. It proves the wiring and nothing medical."
        ),
        sections=[
            (
                f"Score on {report.num_questions} held-out questions",
                page.render_table(headers, rows),
            ),
            ("Loss", page.render_lines(losses, x_label="step", y_label="loss")),
            ("Example answers", page.render_cards(example_cards(run))),
        ],
    )


def example_cards(run: Path) -> list[tuple[str | None, list[str]]]:
    """Return every n-th held-out question with the model's answer beside its image."""
    folder = run / "instructions/test"
    image_dir = folder / read_json(folder / "summary.json")["image_dir"]
    file = run / "eval/predictions.jsonl"
    made = [Prediction.from_json(line, where=f"{file}, line {n}") for n, line in iter_jsonl(file)]
    answers = {
        prediction.id: prediction.text for prediction in made if prediction.condition == REAL
    }
    questions = [line for _, line in iter_jsonl(folder / "questions.jsonl")]
    cards: list[tuple[str | None, list[str]]] = []
    for question in questions[:: max(1, len(questions) // NUM_EXAMPLES)]:
        image = os.path.relpath(image_dir / question["image"], run)
        answer = answers.get(question["id"], "(none)")
        right = answer.strip().lower() == question["answer"].lower()
        cards.append(
            (
                image,
                [
                    question["question"],
                    f"answer: {answer}",
                    "right" if right else f"wrong; expected: {question['answer']}",
                ],
            )
        )
    return cards


def _interval(metric: Estimate) -> str:
    if metric.value is None:
        return "-"
    if metric.low is None or metric.high is None:
        return f"{100 * metric.value:.1f}"
    return f"{100 * metric.value:.1f} [{100 * metric.low:.1f}, {100 * metric.high:.1f}]"


if __name__ == "__main__":
    main(Path(sys.argv[1]))

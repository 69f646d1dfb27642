"""Close the quickstart: a short table, the paths of what was made, and a page to look at.

The run folder in, `index.html` and a few printed lines out: loss curves of both stages, the scores
with their floors, and example answers beside their images.

    python recipes/quickstart/summary.py runs/quickstart
"""

import os
import sys
from pathlib import Path

from medllava import page
from medllava.eval.score.scores import METRICS as EVAL_METRICS
from medllava.records import Estimate, Estimates, EvalReport, Prediction, Question
from medllava.store import iter_jsonl, read_json, read_record, write_text

METRICS = ("accuracy", "closed_accuracy", "open_token_recall")
ACCURACY = next(metric for metric in EVAL_METRICS if metric.name == "accuracy")
NUM_EXAMPLES = 24
REAL = "real"
EXPECTED_GAIN = 10
"""Points of accuracy that the right image must be better than another of the same modality."""


def main(run: Path) -> None:
    """Print the table and write the page."""
    report = read_record(run / "eval/report.json", EvalReport)
    rows = score_rows(report)
    width = max(len(str(row[0])) for row in rows)
    print(f"\n{'':{width}}  accuracy           closed accuracy    open token recall")
    for name, *numbers in rows:
        print(f"{name:{width}}  {''.join(f'{number:<19}' for number in numbers)}".rstrip())
    print(ceiling(run))
    print(verdict(report))
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


def verdict(report: EvalReport) -> str:
    """Return whether the gain is what it should be, in a sentence."""
    value = visual_gain(report)["accuracy"].value
    if value is None:
        sys.exit("eval/report.json has no accuracy: run eval on the questions again.")
    points = 100 * value
    outcome = (
        "the model looks at the pictures" if points >= EXPECTED_GAIN else "fewer than expected"
    )
    return (
        f"visual gain over {report.visual_gain_over}: {points:.1f} points;"
        f" {EXPECTED_GAIN} are expected: {outcome}"
    )


def ceiling(run: Path) -> str:
    """Return what the frozen encoder alone could answer, in a sentence."""
    counts = read_json(run / "linear_probe.json").values()
    right, questions = (sum(count[name] for count in counts) for name in ("right", "of"))
    return (
        f"a linear probe of the frozen encoder answers {right} of {questions} open questions"
        f" ({100 * right / questions:.1f} %)"
    )


def score_rows(report: EvalReport) -> list[tuple[str, ...]]:
    """Return condition, accuracy, closed accuracy and token recall with intervals, in percent."""
    rows = {**report.conditions, "visual gain": visual_gain(report)}
    return [
        (name.replace("_", " "), *(_interval(metrics[metric]) for metric in METRICS))
        for name, metrics in rows.items()
    ]


def render(run: Path, report: EvalReport, rows: list[tuple[str, ...]]) -> str:
    """Return the page."""
    losses = {
        f"stage {stage}": [
            (float(m["step"]), float(m["loss"]))
            for _, m in iter_jsonl(run / f"stage{stage}/metrics.jsonl")
            if "loss" in m
        ]
        for stage in (1, 2)
    }
    headers = ("condition", *(f"{name.replace('_', ' ')}, % [95 % interval]" for name in METRICS))
    return page.render_page(
        "medllava quickstart",
        subtitle=(
            "A 135M language model that learned to see in minutes on a CPU, from real images with "
            "generated questions. It proves the wiring and nothing medical."
        ),
        sections=[
            (
                f"Score on {report.num_questions} held-out questions",
                page.render_table(headers, rows) + page.render_text(ceiling(run)),
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
        right = ACCURACY.score(Question.from_json(question, where="questions.jsonl"), answer) == 1
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

"""Close the quickstart: a short table, the paths of what was made, and a page to look at.

The run folder in, `index.html` and a few printed lines out: loss curves of both stages, the scores
with their floors, and example answers beside their images.

    python recipes/quickstart/summary.py runs/quickstart
"""

import os
import sys
from pathlib import Path
from typing import Any

from medllava import page
from medllava.store import iter_jsonl, read_json, write_text

NUM_EXAMPLES = 24
EXPECTED_GAIN = 20
"""Points of exact match that real images must be better than permuted ones."""


def main(run: Path) -> None:
    """Print the table and write the page."""
    report = read_json(run / "eval/report.json")
    rows = score_rows(report)
    width = max(len(str(row[0])) for row in rows)
    print(f"\n{'':{width}}  exact match        token recall")
    for name, exact, recall in rows:
        print(f"{name:{width}}  {exact:<18} {recall}")
    gain = 100 * report["visual_gain"]["exact_match"]["value"]
    verdict = "the model looks at the pictures" if gain >= EXPECTED_GAIN else "fewer than expected"
    print(f"real minus permuted: {gain:.1f} points; {EXPECTED_GAIN} are expected: {verdict}")
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


def score_rows(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (condition, exact match, token recall) with 95 % intervals, in percent."""
    rows = []
    for name, metrics in report["conditions"].items():
        rows.append((name, _interval(metrics["exact_match"]), _interval(metrics["token_recall"])))
    gain = report["visual_gain"]
    rows.append(
        ("real minus permuted", _interval(gain["exact_match"]), _interval(gain["token_recall"]))
    )
    return rows


def render(run: Path, report: dict[str, Any], rows: list[tuple[str, str, str]]) -> str:
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
                f"Score on {report['num_questions']} held-out questions",
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
    answers = {
        line["id"]: line["text"]
        for _, line in iter_jsonl(run / "eval/predictions.jsonl")
        if line.get("condition", "real") == "real"
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


def _interval(metric: dict[str, float]) -> str:
    value, low, high = (100 * metric[key] for key in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""How much of an old task is forgotten when a new one is learned, with and without replay.

    python tests/benchmarks/forgetting.py [--seeds 3] [--replay 0 0.1 0.2] [-o FOLDER]

The model is the recipe `debug`'s, all of tiny random parts. It first learns to name the color of a
drawn disc (stage 2), then which corner another disc is in (stage 3, the `replay` share drawn
from the first task's records). Both tasks are asked of pictures that no run has seen, before and
after. Everything goes through the steps that the commands call. Prints one table.
"""

import argparse
import json
import random
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from medllava.eval.config import EvalConfig
from medllava.eval.run import evaluate_task
from medllava.layout import EVAL_REPORT_FILE
from medllava.train.resolve import resolve_config
from medllava.train.run import train_stage

COLORS = {
    "red": (220, 30, 30),
    "green": (30, 190, 40),
    "blue": (40, 50, 220),
    "yellow": (230, 220, 30),
}
CORNERS = {"top left": (7, 7), "top right": (21, 7), "low left": (7, 21), "low right": (21, 21)}
SIDE = 28
RADIUS = 6


@dataclass(frozen=True)
class Task:
    """A question that is asked of every picture."""

    name: str
    question: str


COLOR = Task("color", "What color is the disc?")
CORNER = Task("corner", "Which corner is the disc in?")


def draw(folder: Path, task: Task, *, count: int, seed: int) -> Path:
    """Draw pictures with one disc each, and write a task's records and questions about them."""
    folder.mkdir(parents=True)
    chance = random.Random(f"{task.name} {seed} {folder.name}")
    records, questions = [], []
    for number in range(count):
        color, corner = chance.choice(list(COLORS)), chance.choice(list(CORNERS))
        level = chance.randint(0, 60)
        picture = Image.new("RGB", (SIDE, SIDE), (level, level, level))
        x, y = (place + chance.randint(-1, 1) for place in CORNERS[corner])
        box = (x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS)
        ImageDraw.Draw(picture).ellipse(box, fill=COLORS[color])
        name = f"{number:04}.png"
        picture.save(folder / name)
        answer = color if task is COLOR else corner
        turns = [
            {"role": "user", "content": f"<image>\n{task.question}"},
            {"role": "assistant", "content": answer},
        ]
        own = {"record_id": name, "images": [name], "stage": "instruct", "turns": turns}
        records.append(own)
        asked = {"id": name, "image": name, "question": task.question, "answer": answer}
        questions.append({**asked, "answer_type": "closed"})
    for file, rows in (("instructions.jsonl", records), ("questions.jsonl", questions)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / file).write_text(lines, encoding="utf-8")
    return folder


def accuracy(checkpoint: Path, questions: Path, out: Path) -> float:
    """Return the percentage of questions that a checkpoint answers exactly."""
    config = EvalConfig(
        task=str(questions / "questions.jsonl"), checkpoint=str(checkpoint), output_dir=out
    )
    evaluate_task(config)
    report = json.loads((out / EVAL_REPORT_FILE).read_text(encoding="utf-8"))
    return 100 * float(report["conditions"]["real"]["exact_match"]["value"])


def train(data: Path, out: Path, *, stage: str, seed: int, epochs: int, init: str, replay: float):
    """Train one stage of the recipe `debug`."""
    name = {"2": "instruct", "3": "finetune"}[stage]
    config = resolve_config(
        "debug",
        stage=stage,
        data=str(data),
        init=init,
        output_dir=out,
        overrides=[
            f"train.seed={seed}",
            f"stage.{name}.epochs={epochs}",
            f"stage.{name}.replay={replay}",
            f"stage.{name}.global_batch_size=32",
            f"stage.{name}.learning_rate=3e-3",
            "checkpoint.every_steps=1000",
        ],
    )
    train_stage(config)
    return out


def run(folder: Path, seed: int, shares: list[float], options: argparse.Namespace) -> list[dict]:
    """Return a row for every share of replay."""
    made = {
        (task.name, part): draw(folder / f"{task.name}-{part}", task, count=count, seed=seed)
        for task in (COLOR, CORNER)
        for part, count in (("train", options.records), ("test", options.questions))
    }
    old = train(
        made["color", "train"],
        folder / "old",
        stage="2",
        seed=seed,
        epochs=options.epochs,
        init="parts",
        replay=0.0,
    )
    before = accuracy(old, made["color", "test"], folder / "eval-old")
    rows = []
    for share in shares:
        new = train(
            made["corner", "train"],
            folder / f"new-{share}",
            stage="3",
            seed=seed,
            epochs=options.epochs,
            init=str(old),
            replay=share,
        )
        after = accuracy(new, made["color", "test"], folder / f"eval-{share}-color")
        learned = accuracy(new, made["corner", "test"], folder / f"eval-{share}-corner")
        row = {"seed": seed, "replay": share, "old before": before}
        rows.append({**row, "old after": after, "new": learned})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--replay", type=float, nargs="+", default=[0.0, 0.1, 0.2])
    parser.add_argument("--records", type=int, default=600)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("-o", "--output-dir", type=Path, default=None)
    options = parser.parse_args()
    root = options.output_dir or Path(tempfile.mkdtemp(prefix="forgetting-"))
    rows = [
        row
        for seed in range(options.seeds)
        for row in run(root / f"seed{seed}", seed, options.replay, options)
    ]
    print("| replay | old task before | after | fell by | new task |\n|---|---|---|---|---|")
    for share in options.replay:
        of = [row for row in rows if row["replay"] == share]
        columns = [
            [f"{row['old before']:.1f}" for row in of],
            [f"{row['old after']:.1f}" for row in of],
            [f"{row['old before'] - row['old after']:.1f}" for row in of],
            [f"{row['new']:.1f}" for row in of],
        ]
        print(f"| {share:.0%} | " + " | ".join(" / ".join(column) for column in columns) + " |")


if __name__ == "__main__":
    main()

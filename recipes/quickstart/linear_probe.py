"""What the frozen vision encoder alone can answer: a linear classifier per category of question.

The run folder in, `linear_probe.json` out, for open questions only. The classifiers see what the
projector is given (class token, and mean of the patches) and know no words; they choose among the
training answers of a category. A model that looks as well as its encoder allows comes close to
their score, and none of the quickstart's size should be expected above it.

    python recipes/quickstart/linear_probe.py runs/quickstart
"""

import sys
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from medllava.images.load import load_image
from medllava.model.standardize import selected_features
from medllava.records import AnswerType, Question
from medllava.store import iter_jsonl, read_json, write_json

WEIGHT_DECAY = 3e-3
STEPS = 200


def main(run: Path) -> None:
    """Fit on the training questions, score on the held-out ones, write both counts."""
    questions = {split: open_questions(run, split) for split in ("train", "test")}
    features = encode(run, {q.image for split in questions.values() for q in split})
    counts = {}
    for category in sorted({q.category for q in questions["test"]}):
        train, test = (
            [q for q in questions[split] if q.category == category] for split in ("train", "test")
        )
        counts[category] = {"right": right_answers(train, test, features), "of": len(test)}
    write_json(run / "linear_probe.json", counts)


def open_questions(run: Path, split: str) -> list[Question]:
    """Return the open questions of a split."""
    file = run / f"instructions/{split}/questions.jsonl"
    questions = [
        Question.from_json(line, where=f"{file}, line {n}") for n, line in iter_jsonl(file)
    ]
    return [question for question in questions if question.answer_type is AnswerType.OPEN]


def encode(run: Path, images: set[str]) -> dict[str, Tensor]:
    """Return class token and mean patch of every image, (2 E,)."""
    model = LlavaForConditionalGeneration.from_pretrained(run / "stage2", dtype=torch.float32)
    processor = LlavaProcessor.from_pretrained(run / "stage2")
    folder = run / "instructions/test"
    root = folder / read_json(folder / "summary.json")["image_dir"]
    names = sorted(images)
    per_token = selected_features(model, processor, [load_image(root / n) for n in names])
    pooled = torch.cat([per_token[:, 0], per_token[:, 1:].mean(1)], dim=1)
    return dict(zip(names, pooled, strict=True))


def right_answers(train: list[Question], test: list[Question], features: dict[str, Tensor]) -> int:
    """Return how many of `test` a classifier fitted on `train` answers right."""
    answers = sorted({question.answer for question in train})
    inputs = torch.stack([features[question.image] for question in train])
    targets = torch.tensor([answers.index(question.answer) for question in train])
    mean, deviation = inputs.mean(0), inputs.std(0).clamp_min(1e-6)
    classifier = torch.nn.Linear(inputs.shape[1], len(answers))
    torch.nn.init.zeros_(classifier.weight)
    torch.nn.init.zeros_(classifier.bias)
    optimizer = torch.optim.LBFGS(classifier.parameters(), max_iter=STEPS)

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = classifier((inputs - mean) / deviation)
        value = torch.nn.functional.cross_entropy(logits, targets)
        value = value + WEIGHT_DECAY * classifier.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        asked = torch.stack([features[question.image] for question in test])
        chosen = classifier((asked - mean) / deviation).argmax(dim=1).tolist()
    return sum(answers[c] == q.answer for c, q in zip(chosen, test, strict=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Can a trained checkpoint tell pairs that its pictures bear out from planted wrong ones?

    python tests/benchmarks/instruct_vision_gate.py [--run runs/quickstart] [--ckpt FOLDER]

Pairs are the held-out figures' own facts (kind of image, organ, plane, stain), each once with its
true answer and once with another that occurs in the data. Every pair is scored with its own picture
against four others. Prints the area under the ROC curve with a 95 % interval (bootstrap over
figures, 2,000 draws), and what the gate's own limit drops of either.
"""

import argparse
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from medllava.instruct.facts import read_facts
from medllava.instruct.figures import iter_figures, manifest_path
from medllava.instruct.parse import Pair
from medllava.instruct.template import count_answers
from medllava.instruct.vision_gate import LEAST_GAIN, VisionGate
from medllava.records import Split

NUM_OTHERS = 4
DRAWS = 2000


def area(right: np.ndarray, wrong: np.ndarray) -> float:
    """Return the probability that a right pair scores above a wrong one; ties count half."""
    above = (right[:, None] > wrong[None]).mean()
    return float(above + (right[:, None] == wrong[None]).mean() / 2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--ckpt", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    root = args.run / "figures"
    figures = list(iter_figures(manifest_path(root), split=Split.TEST))
    counts = count_answers(figures)
    gate = VisionGate(str(args.ckpt or args.run / "stage2"), device="cpu")
    rows: list[tuple[int, str, float, float]] = []
    for number, figure in enumerate(figures):
        strangers = [f for f in figures if f is not figure]
        others = [root / f.images[0] for f in rng.sample(strangers, NUM_OTHERS)]
        for fact in read_facts(figure):
            values = [answer for answer in sorted(counts[fact.topic.name]) if answer != fact.answer]
            if not values or fact.count is not None:
                continue
            question = rng.choice(fact.topic.open_wordings)
            right, wrong = (
                gate.score(Pair(question, answer), root / figure.images[0], others)
                for answer in (fact.answer, rng.choice(values))
            )
            rows.append((number, fact.topic.name, right, wrong))
    of = np.array([row[0] for row in rows])
    right, wrong = (np.array([row[i] for row in rows]) for i in (2, 3))
    draws = []
    generator = np.random.default_rng(args.seed)
    for _ in range(DRAWS):
        drawn = generator.choice(np.unique(of), len(np.unique(of)))
        picked = np.concatenate([np.flatnonzero(of == number) for number in drawn])
        draws.append(area(right[picked], wrong[picked]))
    low, high = np.quantile(draws, (0.025, 0.975))
    print(
        f"pairs                {len(rows)} right, {len(rows)} wrong, {len(np.unique(of))} figures"
    )
    print(f"AUC                  {area(right, wrong):.3f} [{low:.3f}, {high:.3f}]")
    for topic in sorted(Counter(row[1] for row in rows)):
        mine = np.array([row[1] == topic for row in rows])
        print(f"  {topic:18} {area(right[mine], wrong[mine]):.3f}  ({mine.sum()} pairs)")
    for limit in (0.0, LEAST_GAIN):
        print(
            f"below {limit:5.2f} are     {np.mean(wrong < limit):.3f} of the wrong, "
            f"{np.mean(right < limit):.3f} of the right"
        )


if __name__ == "__main__":
    main()

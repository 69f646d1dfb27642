"""Does rewarding for looking help? Three ways of spending the same compute, three seeds.

Starts from the quickstart's stage 2: more supervised training on the same questions, plain GRPO,
and GRPO that charges right answers about other pictures. All arms learn the projector and the same
adapter at the same rates. Compute is counted in passes of a token through the model: one forward,
one backward (the weights under an adapter get no gradient of their own). An answer that is given
and learned from takes three, a supervised token two; GRPO's are counted as its run counted them,
with a prompt once for all its answers, and supervised training gets the steps that come nearest.

    bash recipes/quickstart.sh
    python tests/benchmarks/reward_table.py runs/quickstart -o runs/rewards --seeds 0 1 2

What is there is not made again, so the arms can run in several processes (`--arms`, GRPO before
supervised), and the table is printed for what is complete.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

RECIPE = "smollm2-135m"
QUESTIONS, ANSWERS = 8, 8
"""Of a step of GRPO."""
ADAPTER = {"adapter": "lora", "lora_rank": 16, "lora_alpha": 32, "lora_dropout": 0.0}
RATES = {
    "learning_rate": 1e-3,
    "projector_learning_rate": 1e-3,
    "schedule": "constant",
    "warmup_ratio": 0.0,
    "max_grad_norm": 1.0,
}
COMMON = ("train.precision=bf16", "checkpoint.every_steps=100")
ARMS = {
    "grpo": ("reinforce", {"rewards.looking": 0.0}),
    "looking": ("reinforce", {"rewards.looking": 0.5}),
    "supervised": ("finetune", {}),
}
PASSES = {"reinforce": 3, "finetune": 2}
"""Of a token through the model, by stage."""
SUPERVISED_BATCH = 16
_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""97.5 % points of Student's t by number of runs."""


def medllava(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "medllava", *arguments, "-q"], check=True)


def train(arm: str, seed: int, output_dir: Path, quickstart: Path, steps: int) -> None:
    """Train one arm of one seed, unless it is there."""
    stage, own = ARMS[arm]
    folder = output_dir / f"{arm}-{seed}"
    if (folder / "run.json").exists():
        return
    settings = {**ADAPTER, **RATES, **own}
    if stage == "reinforce":
        settings |= {
            "global_batch_size": QUESTIONS,
            "micro_batch_size": QUESTIONS * ANSWERS,
            "generations": ANSWERS,
            "max_new_tokens": 8,
        }
    else:
        settings |= {"global_batch_size": SUPERVISED_BATCH}
        steps = supervised_steps(output_dir / f"grpo-{seed}", output_dir)
    options = [f"stage.{stage}.{name}={value}" for name, value in settings.items()]
    medllava(
        *("train", RECIPE, "--stage", stage, "--max-steps", str(steps)),
        *("--data", str(quickstart / "instructions/train/questions.jsonl")),
        *("--init", str(quickstart / "stage2"), "-o", str(folder)),
        *(
            part
            for option in [*COMMON, f"train.seed={seed}", *options]
            for part in ("--set", option)
        ),
    )


def supervised_steps(grpo: Path, output_dir: Path) -> int:
    """Return how many supervised steps take as many passes as a run of GRPO.

    Tokens of a step are those of a supervised run that is there, else a first guess.
    """
    per_step = 600.0
    for path in output_dir.glob("supervised-*/metrics.jsonl"):
        lines = steps_of(path)
        if lines:
            per_step = statistics.mean(line["tokens"] for line in lines)
    return max(1, round(passes(grpo, "reinforce") / (PASSES["finetune"] * per_step)))


def steps_of(metrics: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def passes(folder: Path, stage: str) -> float:
    """Return how many tokens a run took through the model, each as often as it went."""
    return PASSES[stage] * sum(line["tokens"] for line in steps_of(folder / "metrics.jsonl"))


def evaluate(checkpoint: Path, folder: Path, quickstart: Path) -> dict[str, float]:
    report = folder / "report.json"
    if not report.exists():
        questions = quickstart / "instructions/test/questions.jsonl"
        medllava(
            *("eval", str(questions), "--ckpt", str(checkpoint), "-o", str(folder)),
            *("--controls", "permuted_within", "--permutations", "1"),
        )
    return read(report)


def read(report: Path) -> dict[str, float]:
    values = json.loads(report.read_text())
    real = values["conditions"]["real"]
    return {
        "exact match": 100 * real["exact_match"]["value"],
        "closed accuracy": 100 * real["closed_accuracy"]["value"],
        "visual gain within modality": 100 * values["visual_gain"]["exact_match"]["value"],
    }


def interval(values: list[float], unit: str = "{:.1f}") -> str:
    mean = statistics.mean(values)
    if len(values) < 2:
        return unit.format(mean)
    half = _T[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return f"{unit} [{unit}, {unit}]".format(mean, mean - half, mean + half)


def print_table(output_dir: Path, before: dict[str, float]) -> None:
    print("| | " + " | ".join(before) + " | thousand passes | seconds of training |")
    print("|---" * (len(before) + 3) + "|")
    print("| before | " + " | ".join(f"{value:.1f}" for value in before.values()) + " | | |")
    for arm, (stage, _) in ARMS.items():
        reports = sorted(output_dir.glob(f"{arm}-*/eval/report.json"))
        if not reports:
            continue
        runs = [read(path) for path in reports]
        folders = [path.parent.parent for path in reports]
        taken = statistics.mean(passes(folder, stage) for folder in folders) / 1000
        seconds = statistics.mean(
            sum(line["seconds"] for line in steps_of(folder / "metrics.jsonl"))
            for folder in folders
        )
        cells = [interval([run[name] for run in runs]) for name in before]
        cells += [f"{taken:.0f}", f"{seconds:.0f}"]
        print(f"| {arm}, {len(runs)} seeds | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("quickstart", type=Path)
    parser.add_argument("-o", "--output-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--steps", type=int, default=12, help="of GRPO, 64 answers each")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for seed in options.seeds:
        for arm in options.arms:
            train(arm, seed, options.output_dir, options.quickstart, options.steps)
            folder = options.output_dir / f"{arm}-{seed}"
            evaluate(folder, folder / "eval", options.quickstart)
    before = evaluate(
        options.quickstart / "stage2", options.output_dir / "before", options.quickstart
    )
    print_table(options.output_dir, before)


if __name__ == "__main__":
    main()

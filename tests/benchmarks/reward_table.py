"""Does rewarding for looking help? Three ways of spending the same compute, three seeds.

Starts from the quickstart's stage 2 and gives each arm the same model FLOPs: more supervised
training on the same questions, plain GRPO, and GRPO that charges right answers about other
pictures. An answer that is sampled and learned from costs four forward passes (one to give it,
three to learn from it), a supervised record three, so supervised training gets 4/3 as many records.
All arms learn the projector and the same adapter at the same rates.

    bash recipes/quickstart.sh
    python tests/benchmarks/reward_table.py runs/quickstart -o runs/rewards --seeds 0 1 2

What is there is not made again, so the arms can run in several processes (`--arms`), and the table
is printed for what is complete.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

RECIPE = "smollm2-135m"
QUESTIONS, ANSWERS = 4, 4
"""Of a step of GRPO."""
ADAPTER = {"adapter": "lora", "lora_rank": 16, "lora_alpha": 32, "lora_dropout": 0.0}
RATES = {"learning_rate": 5e-4, "schedule": "constant", "warmup_ratio": 0.0, "max_grad_norm": 1.0}
ARMS = {
    "supervised": ("finetune", {"projector_learning_rate": 5e-4}),
    "grpo": ("reinforce", {}),
    "looking": ("reinforce", {"rewards.looking": 0.5}),
}
_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""97.5 % points of Student's t by number of runs."""


def train(arm: str, seed: int, folder: Path, quickstart: Path, steps: int) -> None:
    stage, own = ARMS[arm]
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
        num_steps = steps
    else:
        settings |= {"global_batch_size": QUESTIONS * ANSWERS}
        num_steps = round(steps * 4 / 3)
    command = [sys.executable, "-m", "medllava", "train", RECIPE, "--stage", stage, "-q"]
    command += ["--data", str(quickstart / "instructions/train/questions.jsonl")]
    command += ["--init", str(quickstart / "stage2"), "-o", str(folder)]
    command += ["--max-steps", str(num_steps), "--set", f"train.seed={seed}"]
    for name, value in settings.items():
        command += ["--set", f"stage.{stage}.{name}={value}"]
    subprocess.run(command, check=True)


def evaluate(checkpoint: Path, folder: Path, quickstart: Path) -> dict[str, float]:
    report = folder / "report.json"
    if not report.exists():
        questions = quickstart / "instructions/test/questions.jsonl"
        command = [sys.executable, "-m", "medllava", "eval", str(questions), "-q"]
        command += ["--ckpt", str(checkpoint), "--controls", "permuted", "--permutations", "1"]
        subprocess.run([*command, "-o", str(folder)], check=True)
    return read(report)


def read(report: Path) -> dict[str, float]:
    values = json.loads(report.read_text())
    real = values["conditions"]["real"]
    return {
        "exact match": 100 * real["exact_match"]["value"],
        "closed accuracy": 100 * real["closed_accuracy"]["value"],
        "visual gain within modality": 100 * values["visual_gain"]["exact_match"]["value"],
    }


def interval(values: list[float]) -> str:
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.1f}"
    half = _T[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.1f} [{mean - half:.1f}, {mean + half:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("quickstart", type=Path)
    parser.add_argument("-o", "--output-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--steps", type=int, default=6, help="of GRPO, 16 answers each")
    options = parser.parse_args()
    for seed in options.seeds:
        for arm in options.arms:
            folder = options.output_dir / f"{arm}-{seed}"
            train(arm, seed, folder, options.quickstart, options.steps)
            evaluate(folder, folder / "eval", options.quickstart)
    before = evaluate(
        options.quickstart / "stage2", options.output_dir / "before", options.quickstart
    )
    print("| | " + " | ".join(before) + " |\n|---" * 1 + "|---|---|---|")
    print("| before | " + " | ".join(f"{value:.1f}" for value in before.values()) + " |")
    for arm in ARMS:
        reports = sorted(options.output_dir.glob(f"{arm}-*/eval/report.json"))
        if reports:
            runs = [read(path) for path in reports]
            cells = (interval([run[name] for run in runs]) for name in before)
            print(f"| {arm}, {len(runs)} seeds | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()

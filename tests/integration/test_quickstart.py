"""What the quickstart left behind, looked at by other programs; it runs before the tests in CI."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medllava.store import read_json

ROOT = Path(__file__).parents[2]
RUN = ROOT / "runs/quickstart"
if not (RUN / "index.html").exists():
    RUN = ROOT / "runs/quickstart-short"  # as CI leaves it

pytestmark = pytest.mark.skipif(
    not (RUN / "index.html").exists(), reason="bash recipes/quickstart.sh has not been run here"
)


def test_the_report_holds_the_score_beside_its_floors():
    report = read_json(RUN / "eval/report.json")
    assert report["num_questions"] >= 150
    assert set(report["conditions"]) >= {"real", "permuted", "blank", "majority"}
    for metrics in report["conditions"].values():
        for name in ("accuracy", "exact_match", "token_recall"):
            score = metrics[name]
            assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1


def test_the_model_looks_at_the_picture():
    report = read_json(RUN / "eval/report.json")
    # Arithmetic differs between processors, so only the proof itself is required everywhere; CI
    # trains a quarter of the steps, which may be too few for an interval above zero within a
    # modality.
    gain = report["gain_over_all"]["accuracy"]
    assert gain["value"] > 0.1
    assert gain["low"] > 0
    assert "modality" in report["visual_gain_over"]


def test_a_linear_probe_of_the_encoder_is_printed_beside_the_score():
    counts = read_json(RUN / "linear_probe.json")
    right, questions = (sum(c[name] for c in counts.values()) for name in ("right", "of"))
    # Most of what is asked is in the frozen features; were it not, no model could answer it.
    assert right / questions > 0.8
    assert read_json(RUN / "eval/report.json")["num_questions"] > questions > 150


def test_no_image_of_one_split_is_in_another():
    seen: dict[str, set[str]] = {}
    for split in ("train", "test"):
        lines = (RUN / f"instructions/{split}/questions.jsonl").read_text().splitlines()
        seen[split] = {json.loads(line)["image"] for line in lines}
    assert seen["train"]
    assert not seen["train"] & seen["test"]


@pytest.mark.timeout(300)
def test_the_folder_answers_in_transformers_alone(tmp_path):
    image = next(iter(sorted((RUN / "figures/images").rglob("*.png"))))
    script = """
import sys
from transformers import pipeline
pipe = pipeline("image-text-to-text", model=sys.argv[1])
content = [
    {"type": "image", "path": sys.argv[2]},
    {"type": "text", "text": "What kind of image is this?"},
]
answer = pipe([{"role": "user", "content": content}], max_new_tokens=8, return_full_text=False)
assert "medllava" not in sys.modules
print("ANSWER:", answer[0]["generated_text"])
"""
    command = [sys.executable, "-c", script, str(RUN / "stage2"), str(image)]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    answer = result.stdout.rpartition("ANSWER:")[2].strip()
    assert 0 < len(answer.split()) <= 8


def test_the_card_names_every_package_and_license():
    card = (RUN / "push/README.md").read_text()
    sources = [
        json.loads(path.read_text())
        for path in (
            RUN / "archive/SOURCES.json",
            ROOT / ".cache/quickstart/parts/smollm2-135m-instruct/SOURCES.json",
            ROOT / ".cache/quickstart/parts/dinov2-small/SOURCES.json",
        )
    ]
    for package in [p for group in sources for p in group]:
        assert package["name"] in card
        assert package["license"].replace("-", " ") in card.replace("-", " ")

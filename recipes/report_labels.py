"""From reports to labels without a picture: records of text only, on real reports, on a CPU.

The Indiana University chest X-ray collection (Open-i; 3,955 reports with MeSH headings) comes in
the package torchxrayvision. Its license, CC BY-NC-ND 4.0, allows no copies that were changed: the
reports are read when this runs, and the records made of them are deleted before it ends. The model
and its scores stay; they are for research only, and the model is not to be published.

    python recipes/report_labels.py CACHE --init CKPT -o OUT [--steps 40]

CKPT is any checkpoint, such as runs/quickstart/stage1. Findings go in, headings come out; the floor
is what is said most often. A split by report: which reports are of one patient is not told.
"""

import argparse
import json
import random
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent / "quickstart"))

from fetch_parts import download

from medllava.eval.config import Condition, DecodingConfig, EvalConfig
from medllava.eval.run import evaluate_task, score_lines
from medllava.pmc.xml import parse_xml
from medllava.records import AnswerType, InstructionRecord, Question, Stage, Turn
from medllava.store import write_jsonl
from medllava.train.resolve import resolve_config
from medllava.train.run import train_stage

PACKAGE = {
    "name": "torchxrayvision",
    "version": "1.5.7",
    "sha256": "95f6c3475661f3515d4258deb0855bd5d1b1a56e0b65384251d3dd3fa61fac41",
}
MEMBER = "torchxrayvision/data/NLMCXR_reports.tgz"
LICENSE = "CC BY-NC-ND 4.0"
NUM_LABELS = 10
"""The most frequent headings; a report's others are left out."""
LONGEST = 600
"""Characters of findings; longer reports are left out."""
NUM_TEST = 200
"""Reports that are kept for the test."""


@dataclass(frozen=True, slots=True)
class Report:
    """One study."""

    name: str
    findings: str
    labels: tuple[str, ...]


def main(cache: Path, out: Path, *, init: str, steps: int, seed: int) -> None:
    """Make records, train, measure, and delete the records."""
    wheel = download(PACKAGE, cache / "wheels")
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as packed:
        reports = list(iter_reports(packed))
    known, usable = choose(reports, random.Random(seed))
    test, train = usable[:NUM_TEST], usable[NUM_TEST:]
    print(
        f"{len(reports):,} reports; {len(train):,} to learn from, {len(test):,} to be asked about"
    )
    with TemporaryDirectory() as folder:
        records, questions = Path(folder, "instructions.jsonl"), Path(folder, "questions.jsonl")
        write_jsonl(records, (record(report, known).to_json() for report in train))
        write_jsonl(questions, (question(report, known).to_json() for report in test))
        train_stage(
            resolve_config(
                "smollm2-135m",
                stage="2",
                data=str(records),
                init=init,
                output_dir=out,
                max_steps=steps,
                overrides=["stage.instruct.global_batch_size=8", "data.records_per_image=1"],
            )
        )
        (out / "dropped.jsonl").unlink(missing_ok=True)
        summary = evaluate_task(
            EvalConfig(
                task=str(questions),
                checkpoint=str(out),
                output_dir=Path(folder, "eval"),
                conditions=(Condition.REAL, Condition.MAJORITY),
                decoding=DecodingConfig(max_new_tokens=32),
            )
        )
    for line in score_lines(summary):
        print(line)
    (out / "labels.json").write_text(json.dumps(summary.details["conditions"], indent=2) + "\n")


def choose(reports: list[Report], shuffler: random.Random) -> tuple[list[str], list[Report]]:
    """Return the most frequent headings, and in random order the reports that have some of them.

    Of the normal ones as many are taken as have the next heading: else a constant would do well.
    """
    counts = Counter(label for report in reports for label in report.labels)
    known = [label for label, _ in counts.most_common(NUM_LABELS)]
    normal, room = (known[0],), counts[known[1]]
    chosen = []
    for report in shuffler.sample(reports, len(reports)):
        labels = tuple(label for label in report.labels if label in known)
        if not labels or not 0 < len(report.findings) <= LONGEST:
            continue
        if labels == normal:
            if room == 0:
                continue
            room -= 1
        chosen.append(replace(report, labels=labels))
    return known, chosen


def iter_reports(packed: object) -> Iterator[Report]:
    """Yield the reports of the archive, in its order."""
    with tarfile.open(fileobj=packed, mode="r:gz") as archive:  # type: ignore[call-overload]
        for member in archive:
            if not member.name.endswith(".xml"):
                continue
            root = parse_xml(archive.extractfile(member).read())  # type: ignore[union-attr]
            findings = " ".join(
                node.text or ""
                for node in root.iter("AbstractText")
                if node.get("Label") == "FINDINGS"
            )
            majors = (node.text or "" for node in root.iter("major"))
            labels = dict.fromkeys(major.partition("/")[0].strip() for major in majors)
            yield Report(
                name=Path(member.name).stem,
                findings=" ".join(findings.split()),
                labels=tuple(label for label in labels if label),
            )


def asked(report: Report, known: list[str]) -> str:
    """Return what is asked about a report."""
    return (
        f"Findings of a chest X-ray: {report.findings}\n"
        f"Which of these headings fit: {', '.join(known)}?"
    )


def record(report: Report, known: list[str]) -> InstructionRecord:
    """Return a conversation without a picture."""
    turns = (
        Turn(
            role="user",
            content=f"{asked(report, known)}\nName all that apply, separated by commas.",
        ),
        Turn(role="assistant", content=", ".join(report.labels)),
    )
    return InstructionRecord(
        record_id=report.name, turns=turns, stage=Stage.INSTRUCT, teacher="MeSH", license=LICENSE
    )


def question(report: Report, known: list[str]) -> Question:
    """Return a question without a picture, whose answer is a set."""
    return Question(
        id=report.name,
        image=None,
        question=asked(report, known),
        answer=", ".join(report.labels),
        answers=report.labels,
        answer_type=AnswerType.OPEN,
        category=report.labels[0],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path, help="keeps the package")
    parser.add_argument("--init", required=True, help="checkpoint to start from")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    main(given.cache, given.out, init=given.init, steps=given.steps, seed=given.seed)

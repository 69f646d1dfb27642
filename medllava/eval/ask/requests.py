"""All that one evaluation asks: every condition, every seed, every probe.

Questions enter, `Answers` leave: from a model, continued where an earlier run stopped, or from a
file of predictions. `run` scores them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medllava.data.benchmarks.questions import QuestionSet, image_paths
from medllava.data.conversation import question_text
from medllava.errors import DataError
from medllava.eval.ask.backends import build_answerer
from medllava.eval.ask.predict import (
    Ask,
    build_asks,
    collect_replies,
    read_predictions,
    read_probe_replies,
)
from medllava.eval.baselines import constant_replies, majority_replies, permute_images
from medllava.eval.config import ASKED_CONDITIONS, Backend, Condition, EvalConfig
from medllava.eval.perturbations import write_corrupted
from medllava.eval.probes import Probed
from medllava.progress import Progress
from medllava.records import Question
from medllava.store import sha256_of

Runs = dict[tuple[str, int], list[str]]
"""(condition, seed) to replies in the order of the questions."""

Made = Mapping[str, Sequence[Probed]]
"""Variant to its altered questions."""


@dataclass(slots=True, kw_only=True)
class Answers:
    """Everything that was answered."""

    runs: Runs
    made: Made = field(default_factory=dict)
    probes: dict[str, list[str]] = field(default_factory=dict)
    """Variant to replies, in the order of its altered questions."""


def ask_model(
    config: EvalConfig,
    task: QuestionSet,
    questions: Sequence[Question],
    made: Made,
    *,
    model: Mapping[str, Any],
    progress: Progress,
) -> Answers:
    """Ask the model everything that an earlier run has not answered.

    Raises:
        DataError: images are missing or not readable.
        SetupError: the model cannot be loaded or does not fit.
        RemoteError: a server gave no answer after retries.
    """
    paths = image_paths(task, questions)
    prompt = closed_prompt_of(config, task)
    asks = _condition_asks(config, questions, paths, prompt)
    probe_asks = _probe_asks(config, made, paths, prompt)
    file = config.output_dir / "answers" / f"{_fingerprint(config, task, model)}.jsonl"
    if not config.resume:
        file.unlink(missing_ok=True)
    replies = collect_replies(
        [*asks, *(ask for group in probe_asks.values() for ask in group)],
        build_answerer(config),
        file,
        progress=progress,
        is_greedy=config.decoding.temperature == 0,
    )
    runs: Runs = {}
    for ask in asks:
        runs.setdefault((ask.condition, ask.seed), []).append(replies[ask.key])
    return Answers(
        runs=runs,
        made=made,
        probes={v: [replies[ask.key] for ask in group] for v, group in probe_asks.items()},
    )


def read_answers(config: EvalConfig, questions: Sequence[Question], made: Made) -> Answers:
    """Take the answers from `config.predictions`.

    Raises:
        DataError: questions have no answer, or a condition or probe was not answered.
    """
    assert config.predictions is not None  # noqa: S101 - the caller looked
    found = read_predictions(config.predictions, questions)
    wanted = {c.value for c in (*config.conditions, Condition.REAL) if c in ASKED_CONDITIONS}
    probes = read_probe_replies(config.predictions, made)
    absent = sorted(wanted - {condition for condition, _ in found})
    absent += [variant for variant in made if variant not in probes]
    if absent:
        raise DataError(
            f"no answers under {', '.join(absent)}: {config.predictions}. Only a model can be "
            "asked anew; use --ckpt, or leave these --controls and --probes out."
        )
    runs = {run: replies for run, replies in found.items() if run[0] in wanted}
    return Answers(runs=runs, made=made, probes=probes)


def floors_without_model(config: EvalConfig, questions: Sequence[Question]) -> Runs:
    """Return the replies of the conditions that follow from the references."""
    runs: Runs = {}
    if Condition.MAJORITY in config.conditions:
        runs[Condition.MAJORITY.value, 0] = majority_replies(questions)
    if Condition.CONSTANT in config.conditions:
        runs[Condition.CONSTANT.value, 0] = constant_replies(questions)
    return runs


def closed_prompt_of(config: EvalConfig, task: QuestionSet) -> str:
    """Return what is put after closed questions: the user's choice, else the task's."""
    own = config.decoding.closed_prompt
    return task.closed_prompt if own is None else own


def _condition_asks(
    config: EvalConfig, questions: Sequence[Question], paths: Mapping[str, Path], prompt: str
) -> list[Ask]:
    asked = [c for c in Condition if c in ASKED_CONDITIONS and c in config.conditions]
    contents = {image: sha256_of(path) for image, path in paths.items()}
    asks: list[Ask] = []
    for condition in asked:
        for seed in config.seeds:
            is_permuted = condition is Condition.PERMUTED
            asks += build_asks(
                questions,
                condition=condition,
                seed=seed,
                image_paths=paths,
                shown_instead=permute_images(contents, seed=seed) if is_permuted else {},
                closed_prompt=prompt,
                contents=contents,
            )
    return asks


def _probe_asks(
    config: EvalConfig, made: Made, paths: Mapping[str, Path], prompt: str
) -> dict[str, list[Ask]]:
    contents = {image: sha256_of(path) for image, path in paths.items()} if made else {}

    def content(probed: Probed) -> str:
        of_file = contents.get(probed.question.image or "", "")
        return f"{of_file} {probed.corruption}" if probed.corruption and of_file else of_file

    def shown(probed: Probed) -> str | None:
        if probed.question.image is None:
            return None
        path = paths[probed.question.image]
        if probed.corruption is not None:
            path = write_corrupted(path, probed.corruption, config.output_dir / "probes")
        return str(path)

    return {
        variant: [
            Ask(
                id=probed.base.id,
                condition=variant,
                seed=config.seeds[0],
                image=shown(probed),
                text=question_text(probed.question, closed_prompt=prompt),
                content=content(probed),
            )
            for probed in altered
        ]
        for variant, altered in made.items()
    }


def _fingerprint(config: EvalConfig, task: QuestionSet, model: Mapping[str, Any]) -> str:
    """Name what the replies depend on; other weights or prompts must not be continued."""
    facts = [
        model["source"],
        model["weights_sha256"],
        task.file_sha256,
        str(task.image_dir),
        config.decoding.max_new_tokens,
        config.decoding.temperature,
        closed_prompt_of(config, task),
        config.backend.value,
        config.dtype,
    ]
    if config.backend is not Backend.TRANSFORMERS:
        facts += [config.base_url, config.served_model]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

"""All that one evaluation asks: every condition, every seed, every probe.

Questions enter, `Answers` leave: from a model, continued where an earlier run stopped, or from a
file of predictions. `run` scores them.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medllava.data.benchmarks.questions import QuestionSet, image_paths
from medllava.data.conversation import question_text
from medllava.errors import DataError
from medllava.eval.ask.backends import build_answerer
from medllava.eval.ask.options import options_of
from medllava.eval.ask.predict import (
    Ask,
    Key,
    build_asks,
    collect_replies,
    read_predictions,
    read_probe_replies,
)
from medllava.eval.baselines import (
    constant_replies,
    image_kinds,
    majority_replies,
    permute_images,
    permute_within,
)
from medllava.eval.config import ASKED_CONDITIONS, Backend, ChoiceBy, Condition, EvalConfig
from medllava.eval.perturbations import write_corrupted
from medllava.eval.probes import Probed
from medllava.progress import Progress
from medllava.records import Question
from medllava.store import sha256_of

Runs = dict[tuple[str, int], list[str | None]]
"""(condition, seed) to replies in the order of the questions; None where one cannot be asked."""

Made = Mapping[str, Sequence[Probed]]
"""Variant to its altered questions."""


@dataclass(slots=True, kw_only=True)
class Answers:
    """Everything that was answered."""

    runs: Runs
    made: Made = field(default_factory=dict)
    probes: dict[str, list[str]] = field(default_factory=dict)
    """Variant to replies, in the order of its altered questions."""
    refused: dict[Key, str] = field(default_factory=dict)
    """Why a server's model gave no answer, where it gave none."""

    def count_refused(self) -> dict[str, dict[str, int]]:
        """Return how many questions were refused, by condition (or probe) and reason."""
        counts: dict[str, Counter[str]] = {}
        for (_, condition, _), reason in self.refused.items():
            counts.setdefault(condition, Counter())[reason] += 1
        return {condition: dict(found) for condition, found in sorted(counts.items())}

    def real(self) -> list[list[str]]:
        """Return the replies to the benchmark itself, one list per seed, lowest first."""
        runs = [replies for run, replies in sorted(self.runs.items()) if run[0] == Condition.REAL]
        return [[text for text in replies if text is not None] for replies in runs]


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
    asked = _condition_asks(config, questions, paths, prompt)
    asks = [ask for group in asked.values() for ask in group]
    probe_asks = _probe_asks(config, made, paths, prompt)
    file = config.output_dir / "answers" / f"{_fingerprint(config, task, model)}.jsonl"
    if not config.resume:
        file.unlink(missing_ok=True)
    refused: dict[Key, str] = {}
    replies = collect_replies(
        [*asks, *(ask for group in probe_asks.values() for ask in group)],
        build_answerer(config),
        file,
        progress=progress,
        is_greedy=config.decoding.temperature == 0,
        refused=refused,
    )
    texts = {run: {a.id: replies[a.key] for a in group} for run, group in asked.items()}
    return Answers(
        runs={run: [found.get(q.id) for q in questions] for run, found in texts.items()},
        made=made,
        probes={v: [replies[ask.key] for ask in group] for v, group in probe_asks.items()},
        refused=refused,
    )


def read_answers(config: EvalConfig, questions: Sequence[Question], made: Made) -> Answers:
    """Take the answers from `config.predictions`.

    Raises:
        DataError: questions have no answer, or a condition or probe was not answered.
    """
    assert config.predictions is not None  # noqa: S101 - the caller looked
    found = read_predictions(config.predictions, questions)
    conditions = asked_conditions(config, questions)
    wanted = {c.value for c in (*conditions, Condition.REAL)}
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
        runs[Condition.MAJORITY.value, 0] = [*majority_replies(questions)]
    if Condition.CONSTANT in config.conditions:
        runs[Condition.CONSTANT.value, 0] = [*constant_replies(questions)]
    return runs


def asked_conditions(config: EvalConfig, questions: Sequence[Question]) -> list[Condition]:
    """Return the conditions for which the model answers.

    Permuting within kinds is left out where kinds are not known, or there is but one.

    Raises:
        DataError: it is the only permutation asked for, and kinds are not known.
    """
    asked = [c for c in Condition if c in ASKED_CONDITIONS and c in config.conditions]
    if Condition.PERMUTED_WITHIN in asked and len(set(image_kinds(questions)[1].values())) < 2:
        if Condition.PERMUTED not in asked:
            raise DataError(
                "permuted_within needs questions that state the modality of their images, of two "
                "modalities at least. Use --controls permuted."
            )
        asked.remove(Condition.PERMUTED_WITHIN)
    return asked


def closed_prompt_of(config: EvalConfig, task: QuestionSet) -> str:
    """Return what is put after closed questions: the user's choice, else the task's."""
    own = config.decoding.closed_prompt
    return task.closed_prompt if own is None else own


def _condition_asks(
    config: EvalConfig, questions: Sequence[Question], paths: Mapping[str, Path], prompt: str
) -> dict[tuple[str, int], list[Ask]]:
    contents = {image: sha256_of(path) for image, path in paths.items()}
    _, kinds = image_kinds(questions)
    asks: dict[tuple[str, int], list[Ask]] = {}
    for condition in asked_conditions(config, questions):
        for seed in config.seeds_of(condition):
            members, shown_instead = questions, dict[str, str]()
            if condition is Condition.PERMUTED:
                shown_instead = permute_images(contents, seed=seed)
            elif condition is Condition.PERMUTED_WITHIN:
                shown_instead = permute_within(contents, kinds, seed=seed)
                members = [q for q in questions if all(i in shown_instead for i in q.images)]
            made = build_asks(
                members,
                condition=condition,
                seed=seed,
                image_paths=paths,
                shown_instead=shown_instead,
                closed_prompt=prompt,
                contents=contents,
            )
            if config.decoding.choice_by is ChoiceBy.LIKELIHOOD:
                pairs = zip(made, members, strict=True)
                made = [replace(ask, options=options_of(question)) for ask, question in pairs]
            asks[condition.value, seed] = made
    return asks


def _probe_asks(
    config: EvalConfig, made: Made, paths: Mapping[str, Path], prompt: str
) -> dict[str, list[Ask]]:
    contents = {image: sha256_of(path) for image, path in paths.items()} if made else {}
    by_likelihood = config.decoding.choice_by is ChoiceBy.LIKELIHOOD

    def content(probed: Probed) -> str:
        mark = f" {probed.corruption}" if probed.corruption else ""
        return " ".join(contents[image] + mark for image in probed.question.images)

    def shown(probed: Probed) -> list[str]:
        found = [paths[image] for image in probed.question.images]
        if probed.corruption is not None:
            folder = config.output_dir / "probes"
            found = [write_corrupted(path, probed.corruption, folder) for path in found]
        return [str(path) for path in found]

    return {
        variant: [
            Ask(
                id=probed.base.id,
                condition=variant,
                seed=config.seeds[0],
                image=next(iter(images), None),
                more=tuple(images[1:]),
                options=options_of(probed.question) if by_likelihood else (),
                text=question_text(probed.question, closed_prompt=prompt),
                content=content(probed),
            )
            for probed, images in ((probed, shown(probed)) for probed in altered)
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
    if config.decoding.choice_by is not ChoiceBy.REPLY:
        facts.append(config.decoding.choice_by.value)
    if config.backend is not Backend.TRANSFORMERS:
        facts += [config.base_url, config.served_model]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

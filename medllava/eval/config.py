"""What an evaluation is asked to do; no torch and no data here.

`cli.evaluate` builds an `EvalConfig` from its options, `eval.run.evaluate_task` carries it out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from medllava.errors import DataError
from medllava.eval.probes import Probe
from medllava.provenance import is_gguf


class Protocol(StrEnum):
    """Whose rules count a prediction as right."""

    STRICT = "strict"
    """Ours: whole words, clipped counts, both words are no answer."""
    LLAVA_MED = "llava-med"
    """The released LLaVA-Med scripts, every quirk included, beside ours."""


class Backend(StrEnum):
    """What runs the model."""

    TRANSFORMERS = "transformers"
    VLLM = "vllm"
    """vLLM's server at its usual address on this machine; where none is, one that we start."""
    OPENAI = "openai"
    """Any OpenAI-compatible server, named by `base_url`."""
    LLAMA_CPP = "llama.cpp"
    """llama.cpp's server, started here for a checkpoint that is a GGUF file."""


class Condition(StrEnum):
    """What the model was shown; `real` is the benchmark, the others are floors beside it."""

    REAL = "real"
    VERIFIED = "verified"
    """The answers of `real` after `Verifier`s put them right; no model is asked."""
    PERMUTED_WITHIN = "permuted_within"
    """Another test image of the same modality, by a seeded derangement: what is left needs no look
    at the image beyond telling an X-ray from a slide. Questions whose image has no other of its
    kind are left out."""
    PERMUTED = "permuted"
    """Another test image of any kind, by a seeded derangement."""
    BLANK = "blank"
    """A uniform gray image of the same size."""
    TEXT = "text"
    """No image at all."""
    MAJORITY = "majority"
    """The most frequent reference answer, per answer type; no model is asked."""
    CONSTANT = "constant"
    """The best single answer to all closed questions of one kind; no model is asked."""
    LENGTH_MATCHED = "length_matched"
    """To reports: the reference of another image that is about as long as the model's reply; no
    model is asked. A fluent report about somebody else."""


PERMUTATIONS = (Condition.PERMUTED_WITHIN, Condition.PERMUTED)
"""Conditions that show another image of the test; the first is the harder floor."""

ASKED_CONDITIONS = frozenset({Condition.REAL, *PERMUTATIONS, Condition.BLANK, Condition.TEXT})
"""Conditions for which the model answers; the others follow from the references."""


FOLLOWING_CONDITIONS = frozenset({Condition.VERIFIED, Condition.LENGTH_MATCHED})
"""Conditions that follow from the model's real replies."""


class Verifier(StrEnum):
    """A rule that puts replies right after they were made."""

    POLARITY = "polarity"
    """A choice that denies what is asked for becomes the choice it stands against."""


class ClinicalMetric(StrEnum):
    """What reads a report as a clinician would, by a kept package with weights of its own."""

    RADGRAPH = "radgraph"
    """F1 of entities and relations of RadGraph-XL."""
    CHEXBERT = "chexbert"
    """F1 of the findings that CheXbert labels as there."""
    RATESCORE = "ratescore"
    """Similarity of the entities, absence and synonyms understood."""


class ChoiceBy(StrEnum):
    """How the answer to a closed question is taken from a model."""

    REPLY = "reply"
    """Read from its words."""
    LIKELIHOOD = "likelihood"
    """The letter, or yes or no, that it finds likeliest as the first word; our own logits only."""


ANSWER_TOKENS, REPORT_TOKENS = 64, 512
"""Length of a reply, where the user says none: of an answer, and of a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingConfig:
    """How answers are generated."""

    max_new_tokens: int = 64
    """0 chooses by task: `REPORT_TOKENS` where reports are asked for, else 64."""
    temperature: float = 0.0
    """0 is greedy; above 0 each question draws from its own seeded stream."""
    batch_size: int = 0
    """Questions per forward pass; 0 chooses by device. Changes answers only by rounding."""
    choice_by: ChoiceBy = ChoiceBy.REPLY
    """How a closed question is answered."""
    closed_prompt: str | None = None
    """Put after closed questions; None takes the task's own, which a user's file has not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """One evaluation: what is asked, who answers, how it is scored."""

    task: str
    """Name of a shipped task, or path of a folder or file of questions."""
    checkpoint: str | None = None
    """Folder or hub id; None with `predictions`."""
    predictions: Path | None = None
    """Answers made elsewhere; no model is loaded and torch is not imported."""
    output_dir: Path
    data: Path | None = None
    """Local copy of a shipped task; None fetches it from the hub."""
    split: str | None = None
    image_dir: Path | None = None
    language: str = "en"
    limit: int | None = None
    """Take the first so many questions; written into the report, for it is no benchmark then."""
    conditions: tuple[Condition, ...] = (Condition.REAL,)
    protocol: Protocol = Protocol.STRICT
    decoding: DecodingConfig = DecodingConfig()
    backend: Backend = Backend.TRANSFORMERS
    base_url: str | None = None
    served_model: str | None = None
    """Name of the model on the server; None: the checkpoint's."""
    device: str = "auto"
    dtype: str = "auto"
    gpus: int = 1
    """Processes, one GPU each, that share the images between them."""
    permutations: int = 1
    """Orders in which permuted images are shown; their average is the floor."""
    seeds: tuple[int, ...] = (0,)
    """Of sampling and of every random choice; several are averaged."""
    draws: int = 10_000
    """Bootstrap draws behind each interval."""
    verify: tuple[Verifier, ...] = ()
    """What puts real replies right; the condition `verified` is the result."""
    clinical: tuple[ClinicalMetric, ...] = ()
    """Scores of reports beside the words they share."""
    probes: tuple[Probe, ...] = ()
    """Families of altered closed questions; the scores themselves do not contain them."""
    train_data: tuple[str | Path, ...] = ()
    """Training data to look for these questions and images in; also `TASK:SPLIT`."""
    encoder_twins: bool = True
    """Look for near images a second time, by the vision encoder of a LLaVA that is asked here."""
    train_image_dir: Path | None = None
    """What the images of `train_data` are relative to; None: as in training."""
    resume: bool = True
    images_on_page: bool = True
    """False: `report.html` shows no pictures, so that it can be sent where they must not go."""

    def seeds_of(self, condition: Condition) -> tuple[int, ...]:
        """Return the seeds under which a condition is asked; each permutation has one."""
        if condition not in PERMUTATIONS:
            return self.seeds
        first = self.seeds[0]
        return tuple(range(first, first + max(self.permutations, len(self.seeds))))


VLLM_ADDRESS = "http://localhost:8000/v1"


def parse_backend(text: str, *, checkpoint: str | None = None) -> tuple[Backend, str | None]:
    """Read the value of `--backend`: a backend, or the address of a server.

    A GGUF file is answered by llama.cpp, unless a server that has it is named.

    Raises:
        DataError: it is neither.
    """
    if text.startswith(("http://", "https://")):
        return Backend.OPENAI, text
    if text == Backend.VLLM:
        return Backend.VLLM, VLLM_ADDRESS
    if text in (Backend.TRANSFORMERS, Backend.LLAMA_CPP) and is_gguf(checkpoint or ""):
        return Backend.LLAMA_CPP, None
    if text == Backend.TRANSFORMERS:
        return Backend.TRANSFORMERS, None
    raise DataError(
        f"--backend {text!r} is not transformers, vllm, or the address of a server, such as "
        "http://localhost:8000/v1."
    )


def parse_conditions(text: str) -> tuple[Condition, ...]:
    """Read the value of `--controls`: names with commas between, `all`, or nothing.

    `permuted` asks for both its forms; the one within kinds is left out where none is known.

    Raises:
        DataError: a name is not known.
    """
    known = [c for c in Condition if c not in FOLLOWING_CONDITIONS]
    names = _names(text, "--controls", [c for c in known if c is not Condition.REAL])
    if Condition.PERMUTED in names:
        names.append(Condition.PERMUTED_WITHIN)
    return tuple(c for c in known if c is Condition.REAL or c.value in names)


def parse_verifiers(text: str) -> tuple[Verifier, ...]:
    """Read the value of `--verify`.

    Raises:
        DataError: a name is not known.
    """
    return tuple(Verifier(name) for name in _names(text, "--verify", list(Verifier)))


def parse_clinical(text: str) -> tuple[ClinicalMetric, ...]:
    """Read the value of `--clinical`.

    Raises:
        DataError: a name is not known.
    """
    names = _names(text, "--clinical", list(ClinicalMetric))
    return tuple(metric for metric in ClinicalMetric if metric.value in names)


def _names(text: str, option: str, known: Sequence[str]) -> list[str]:
    """Return the names between commas; `all` stands for every one.

    Raises:
        DataError: a name is not known.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return [str(name) for name in known]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(f"{option} {unknown[0]!r} is not one of {', '.join(known)}, all.")
    return names

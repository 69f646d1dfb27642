"""What a checkpoint folder knows about itself, read into plain facts.

`recipe.json`, `run.json` (with the runs it started from nested under `init`) and each
`eval/*/report.json` enter; `ModelFacts` leaves for the license report and the card. A fact that is
not written down stays None or empty, and the card says unknown; nothing is guessed here.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medllava.errors import DataError
from medllava.hub.privacy import hide_paths
from medllava.hub.scores import Evaluation, load_evaluations
from medllava.layout import EVAL_DIR, EVAL_REPORT_FILE, MODEL_CONFIG_FILE, RECIPE_FILE, RUN_FILE
from medllava.provenance import trace_sources
from medllava.records import FROM_PARTS, InitRecord, PartRecord, RunRecord, Source, Stage
from medllava.store import read_json, read_record

CAPTIONS = "none, figure captions"
"""Who wrote the replies of alignment pairs: they are under the figures' own licenses."""
ROLES = {"language_model": "language model", "vision_encoder": "vision encoder"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One pretrained part of the model."""

    role: str
    """`language_model` or `vision_encoder`."""
    source: str
    """Hub id, or the last component of a local folder; `random` for an untrained part."""
    license: str | None
    sources: tuple[Source, ...] = ()

    @property
    def hub_id(self) -> str | None:
        """The source where it can be an id on the hub, else None."""
        is_local = bool(self.sources) or Path(self.source).exists()
        return self.source if self.source.count("/") == 1 and not is_local else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What one stage learned from, in counts."""

    name: str = ""
    used: int | None = None
    dropped: int | None = None
    licenses: dict[str, int] = field(default_factory=dict)
    modalities: dict[str, int] = field(default_factory=dict)
    teachers: dict[str, int] = field(default_factory=dict)
    """Alignment pairs without a teacher count as `CAPTIONS`."""
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRun:
    """One stage of training, as its run.json tells it."""

    stage: str
    recipe: str | None
    data: Data
    steps: int | None
    tokens: int | None
    seconds: float | None
    seed: int | None
    hardware: str | None
    git_commit: str | None
    packages: dict[str, str]
    carbon_grams: float | None
    """CO2 equivalent, only where it was measured."""
    command: str | None = None
    """As it was typed, without the paths of a machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """All that the card of a model may say."""

    parts: tuple[Part, ...]
    stages: tuple[StageRun, ...]
    """In the order they ran."""
    start: str | None
    """The published model that the first stage started from, if it did."""
    evaluations: tuple[Evaluation, ...]
    recipe: dict[str, Any]
    weights_sha256: str | None
    """As run.json recorded it."""


def load_facts(folder: Path, *, reports: Iterable[Path] = ()) -> ModelFacts:
    """Read the facts of a checkpoint folder.

    Args:
        folder: written by `medllava train`.
        reports: evaluations beside those in the folder's own `eval`.

    Raises:
        DataError: the folder is not a checkpoint of ours; names the file that is missing.
    """
    for name in (MODEL_CONFIG_FILE, RUN_FILE, RECIPE_FILE):
        if not (folder / name).is_file():
            raise DataError(
                f"no {name}: {folder}. Push a folder that `medllava train` wrote, or a figures "
                "or instructions folder."
            )
    run, recipe = read_record(folder / RUN_FILE, RunRecord), read_json(folder / RECIPE_FILE)
    runs = list(run.history())
    return ModelFacts(
        parts=tuple(_parts(recipe, runs)),
        stages=tuple(_stage(record) for record in reversed(runs)),
        start=_start(runs[-1].init),
        evaluations=load_evaluations(
            [*sorted(folder.glob(f"{EVAL_DIR}/*/{EVAL_REPORT_FILE}")), *reports]
        ),
        recipe=hide_paths(recipe),
        weights_sha256=run.weights_sha256,
    )


def _start(init: InitRecord) -> str | None:
    return None if init.source in ("", FROM_PARTS) else public_name(init.source)


def _parts(recipe: Mapping[str, Any], runs: list[RunRecord]) -> Iterator[Part]:
    for role in ROLES:
        planned = PartRecord.from_json(recipe.get("model", {}).get(role, {}), where=RECIPE_FILE)
        recorded = [part for run in runs[::-1] if (part := run.parts.get(role))]
        origin = _latest([planned.source, *(part.source for part in recorded)]) or "unknown"
        sources = [part.sources for part in recorded if part.sources]
        yield Part(
            role=role,
            source=public_name(origin),
            license=_latest([planned.license, *(part.license for part in recorded)]),
            sources=sources[-1] if sources else trace_sources(Path(origin)),
        )


def _latest(values: Iterable[str | None]) -> str | None:
    """Return the last value that says something; the first stands where none does."""
    first, *others = values
    said = [value for value in others if value not in (None, "", "unknown")]
    return said[-1] if said else first


def public_name(source: str) -> str:
    """Keep a hub id; of a local path only its last component is anyone's business."""
    is_path = source.startswith(("/", ".", "~")) or source.count("/") > 1 or "\\" in source
    return source.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] if is_path else source


def _stage(run: RunRecord) -> StageRun:
    data = run.data
    return StageRun(
        stage=run.stage.value if run.stage else "unknown",
        recipe=run.recipe,
        data=Data(
            name=public_name(data.source),
            used=data.used,
            dropped=data.dropped,
            licenses=data.by_license,
            modalities=data.by_modality,
            teachers=_teachers(run.stage, data.by_teacher),
            sources=data.sources or trace_sources(Path(data.source)),
        ),
        steps=run.steps,
        tokens=run.tokens,
        seconds=run.seconds,
        seed=run.seed,
        hardware=run.machine.device,
        git_commit=run.machine.git_commit,
        packages=run.machine.packages,
        carbon_grams=run.carbon_g_co2eq,
        command=hide_paths(run.command) or None,
    )


def _teachers(stage: Stage | None, by_teacher: Mapping[str, int]) -> dict[str, int]:
    counts = dict(by_teacher)
    if stage is Stage.ALIGN:
        unnamed = [name for name in counts if name in {"", "unknown"}]
        if number := sum(counts.pop(name) for name in unnamed):
            counts[CAPTIONS] = number
    return counts

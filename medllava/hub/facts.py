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
from medllava.provenance import parse_sources, trace_sources
from medllava.records import Source, Stage
from medllava.store import read_json

_FROM_PARTS = "parts"
"""What run.json calls a start from the recipe's own parts."""
CAPTIONS = "none, figure captions"
"""Who wrote the replies of alignment pairs: they are under the figures' own licences."""
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
    run, recipe = read_json(folder / RUN_FILE), read_json(folder / RECIPE_FILE)
    runs = list(_iter_runs(run))
    return ModelFacts(
        parts=tuple(_parts(recipe, runs)),
        stages=tuple(_stage(values) for values in reversed(runs)),
        start=_start(runs[-1]),
        evaluations=load_evaluations(
            [*sorted(folder.glob(f"{EVAL_DIR}/*/{EVAL_REPORT_FILE}")), *reports]
        ),
        recipe=hide_paths(recipe),
        weights_sha256=run.get("weights_sha256"),
    )


def _iter_runs(run: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the run and the runs it started from, newest first."""
    current: object = run
    while isinstance(current, Mapping):
        yield current
        init = current.get("init")
        current = init.get("run") if isinstance(init, Mapping) else None


def _start(first_run: Mapping[str, Any]) -> str | None:
    init = first_run.get("init")
    source = init.get("source") if isinstance(init, Mapping) else init
    return None if source in (None, "", _FROM_PARTS) else _public_name(str(source))


def _parts(recipe: Mapping[str, Any], runs: list[Mapping[str, Any]]) -> Iterator[Part]:
    for role in ROLES:
        values = dict(recipe.get("model", {}).get(role, {}))
        sources: tuple[Source, ...] = ()
        for run in runs[::-1]:
            entry = (run.get("parts") or {}).get(role) or {}
            values.update({k: v for k, v in entry.items() if v not in (None, "", "unknown")})
            sources = parse_sources(entry.get("sources")) or sources
        origin = str(values.get("source") or "unknown")
        yield Part(
            role=role,
            source=_public_name(origin),
            license=values.get("license"),
            sources=sources or trace_sources(Path(origin)),
        )


def _public_name(source: str) -> str:
    """Keep a hub id; of a local path only its last component is anyone's business."""
    is_path = source.startswith(("/", ".", "~")) or source.count("/") > 1 or "\\" in source
    return source.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] if is_path else source


def _stage(run: Mapping[str, Any]) -> StageRun:
    data = run.get("data")
    values = data if isinstance(data, Mapping) else {}
    origin = str(values.get("source") or "")
    machine = run.get("machine")
    machine = machine if isinstance(machine, Mapping) else {}
    return StageRun(
        stage=str(run.get("stage") or "unknown"),
        recipe=run.get("recipe"),
        data=Data(
            name=_public_name(origin),
            used=values.get("used"),
            dropped=values.get("dropped"),
            licenses=_counts(values.get("by_license")),
            modalities=_counts(values.get("by_modality")),
            teachers=_teachers(run.get("stage"), values.get("by_teacher")),
            sources=parse_sources(values.get("sources")) or trace_sources(Path(origin)),
        ),
        steps=run.get("steps"),
        tokens=run.get("tokens"),
        seconds=run.get("seconds"),
        seed=run.get("seed"),
        hardware=machine.get("device"),
        git_commit=machine.get("git_commit"),
        packages=dict(machine.get("packages") or {}),
        carbon_grams=run.get("carbon_g_co2eq"),
        command=hide_paths(str(run.get("command") or "")) or None,
    )


def _teachers(stage: object, value: object) -> dict[str, int]:
    counts = _counts(value)
    if stage == Stage.ALIGN:
        unnamed = [name for name in counts if name in {"", "unknown"}]
        if number := sum(counts.pop(name) for name in unnamed):
            counts[CAPTIONS] = number
    return counts


def _counts(value: object) -> dict[str, int]:
    if not isinstance(value, Mapping):
        return {}
    return {str(key): int(n) for key, n in value.items() if isinstance(n, int | float)}

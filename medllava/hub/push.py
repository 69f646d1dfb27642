"""The step: a run folder becomes a folder that can be published, and then a repository.

A checkpoint, a figures folder or an instructions folder enters; its kind is seen by its files. The
staged folder, its card and the license report are made and checked first, without any connection;
only then is the hub asked for anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medllava.errors import DataError
from medllava.hub.card import render_model_card
from medllava.hub.checks import (
    check_config,
    check_files,
    check_loads,
    check_weights,
    publishable_weights,
)
from medllava.hub.config import PushConfig
from medllava.hub.dataset import FIGURES, dataset_kind, stage_figures, stage_instructions
from medllava.hub.dataset_card import render_dataset_card
from medllava.hub.export.formats import parse_formats
from medllava.hub.export.results import Export, parity_lines
from medllava.hub.facts import load_facts
from medllava.hub.gate import pass_gate
from medllava.hub.license_report import (
    OWN_DATA_RISK,
    LicenseReport,
    Risk,
    dataset_license_report,
    model_license_report,
)
from medllava.hub.licenses import OWN_DATA
from medllava.hub.staging import stage_folder, stage_model, staging_folder
from medllava.hub.upload import Target, check_access, check_target, upload_folder
from medllava.layout import CARD_FILE, EXPORT_DIR, MODEL_CONFIG_FILE
from medllava.progress import Progress, SilentProgress
from medllava.provenance import weights_sha256
from medllava.records import StepSummary
from medllava.store import exclusive


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A staged folder that passed its checks."""

    repo_type: str
    licenses: LicenseReport
    open_risks: tuple[Risk, ...]
    counts: dict[str, int | float]
    details: dict[str, Any]
    has_own_data: bool
    """Of one's own in rows or weights: nothing goes to a repository that everyone sees."""


def push(
    config: PushConfig,
    *,
    progress: Progress = SilentProgress(),  # noqa: B008 - it holds no state
) -> StepSummary:
    """Publish a folder, or with `dry_run` stop before the first connection.

    The staged folder is exactly what the repository will hold:

        push/
          README.md                        card and hub metadata
          config.json, model*.safetensors  and the processor's files
          recipe.json, run.json            paths of this machine cut out
          metrics.jsonl
          eval/TASK/report.json

    or, for data, README.md, ATTRIBUTION.md and data/SPLIT-NNNNN.parquet.

    Raises:
        DataError: the folder is none of the three kinds, a check fails, or a license risk is open.
        SetupError: the repository name, the token or the options are wrong.
        RemoteError: the hub refused or failed after retries.
    """
    formats = parse_formats(config.exports)
    if not config.repo_id:
        return _export_only(config, formats, progress)
    check_target(config.repo_id, revision=config.revision, create_pr=config.create_pr)
    repo_type = _repo_type(config.folder)
    if not config.dry_run:
        progress.start("ask the hub for access")
        check_access(_target(config, repo_type))
    with exclusive(config.folder):
        prepared = _prepare(config, repo_type, formats, progress)
    for line in prepared.licenses.lines():
        progress.note(line)
    names = ", ".join(risk.name for risk in prepared.open_risks)
    details = {
        **prepared.details,
        "repo_id": config.repo_id,
        "ledger": prepared.licenses.to_json(),
        "open_risks": [risk.name for risk in prepared.open_risks],
    }
    artifacts = {"folder": config.staging_dir, "card": config.staging_dir / CARD_FILE}
    if config.dry_run:
        if names:
            progress.note(f"A real push stops here until these risks are settled: {names}.")
        return StepSummary(
            step="push",
            counts=prepared.counts,
            details={**details, "dry_run": True},
            artifacts=artifacts,
            hint=_hint(config, prepared.open_risks),
        )
    if prepared.open_risks:
        reasons = "; ".join(f"{risk.name}: {risk.reason}" for risk in prepared.open_risks)
        raise DataError(
            f"licenses forbid publishing {config.folder}: {reasons}. Replace that part, or take "
            f"the risk on by name: {_overrides(prepared.open_risks)}."
        )
    outcome = _upload(config, prepared, progress)
    return StepSummary(
        step="push",
        counts={**prepared.counts, **outcome.pop("counts")},
        details={**details, **outcome},
        artifacts=artifacts,
        hint=_next_command(config, prepared.repo_type, outcome["revision"]),
    )


def _repo_type(folder: Path) -> Literal["model", "dataset"]:
    if (folder / MODEL_CONFIG_FILE).is_file():
        return "model"
    if dataset_kind(folder):
        return "dataset"
    raise DataError(
        f"no config.json, figures.parquet or instructions.jsonl: {folder}. Push a "
        "folder that train, fetch-pmc or generate-instructions wrote."
    )


def _export_only(config: PushConfig, formats: Sequence[str], progress: Progress) -> StepSummary:
    """Write files for other engines and send nothing."""
    check_config(config.folder)
    exports = _export(config, formats, progress)
    return StepSummary(
        step="push",
        counts={"files": sum(len(export.files) for export in exports)},
        details={"exports": [export.to_json() for export in exports]},
        artifacts={export.name: export.files[0] for export in exports}
        | {"card": config.export_dir / CARD_FILE},
        hint=f"medllava chat IMAGE --ckpt {exports[0].checkpoint}",
    )


def _export(config: PushConfig, formats: Sequence[str], progress: Progress) -> list[Export]:
    from medllava.hub.export.step import export_checkpoint  # noqa: PLC0415 - needs an extra

    return export_checkpoint(config.folder, config.export_dir, formats, progress=progress)


def _next_command(config: PushConfig, repo_type: str, revision: str | None) -> str | None:
    """Return the command that uses what was pushed, on the branch where it is."""
    if repo_type != "model":
        return None
    chat = "medllava chat IMAGE --ckpt"
    if revision is None:
        return f"{chat} {config.repo_id}"
    local = config.repo_id.rsplit("/", 1)[-1]
    download = f"hf download {config.repo_id} --revision {revision} --local-dir {local}"
    return f"{download} && {chat} {local}"


def _prepare(
    config: PushConfig, repo_type: str, formats: Sequence[str], progress: Progress
) -> Prepared:
    if repo_type == "model":
        return _prepare_model(config, formats, progress)
    if formats:
        raise DataError(f"--export is for models, and this is a data set: {config.folder}.")
    return _prepare_dataset(config, progress)


def _prepare_model(config: PushConfig, formats: Sequence[str], progress: Progress) -> Prepared:
    folder = config.folder
    check_config(folder)
    facts = load_facts(folder, reports=config.reports)
    progress.start("hash the weights")
    weights = publishable_weights(folder)
    sha256 = str(weights_sha256(folder))
    check_weights(folder, sha256, trained=facts.weights_sha256, evaluations=facts.evaluations)
    if not facts.evaluations:
        progress.note("No evaluation report: the card says that the model was not evaluated.")
    licenses = model_license_report(facts)
    open_risks = tuple(
        risk
        for risk in licenses.open_risks(config.accepted_risks)
        if not (config.private and risk.name == OWN_DATA_RISK)
    )
    accepted = [risk for risk in licenses.risks if risk.name in config.accepted_risks]
    details: dict[str, Any] = {"weights_sha256": sha256}
    with staging_folder(config.staging_dir) as staged:
        progress.start("write the folder")
        reports = _report_names([evaluation.path for evaluation in facts.evaluations])
        stage_model(folder, staged, weights=weights, reports=reports)
        card = render_model_card(
            facts, licenses, repo_id=config.repo_id, weights=sha256, accepted=accepted
        )
        exports = _export(config, formats, progress) if formats else []
        if exports:
            card += f"\n## Exported files\n\nIn `{EXPORT_DIR}/`:\n\n{parity_lines(exports)}\n"
            stage_folder(config.export_dir, staged / EXPORT_DIR)
            made = {file.parent for export in exports for file in export.files}
            for folder_made in sorted(made - {config.export_dir}):
                stage_folder(folder_made, staged / EXPORT_DIR / folder_made.name)
            details["exports"] = [export.to_json() for export in exports]
        (staged / CARD_FILE).write_text(card, encoding="utf-8")
        progress.start("check the files")
        check_files(staged, roots=(Path.cwd(), folder.resolve().parent))
        if config.load_check:
            progress.start("load in a fresh process and ask one question")
            details["answer"] = check_loads(staged)["answer"]
    return Prepared(
        repo_type="model",
        licenses=licenses,
        open_risks=open_risks,
        counts=_counts(config.staging_dir),
        details=details,
        has_own_data=any(risk.name == OWN_DATA_RISK for risk in licenses.risks)
        and OWN_DATA_RISK not in config.accepted_risks,
    )


def _prepare_dataset(config: PushConfig, progress: Progress) -> Prepared:
    stage = stage_figures if dataset_kind(config.folder) == FIGURES else stage_instructions
    pass_gate(config, progress=progress)
    with staging_folder(config.staging_dir) as staged:
        progress.start("write the folder")
        facts = stage(
            config.folder,
            staged,
            is_private=config.private,
            shard_bytes=config.shard_bytes,
            progress=progress,
        )
        if not facts.splits:
            reasons = ", ".join(f"{count:,} {why}" for why, count in facts.left_out.items())
            raise DataError(
                f"no row may be published ({reasons or 'none at all'}): {config.folder}."
            )
        licenses = dataset_license_report(facts.licenses, facts.teachers, facts.sources)
        open_risks = tuple(licenses.open_risks(config.accepted_risks))
        card = render_dataset_card(facts, licenses, repo_id=config.repo_id)
        (staged / CARD_FILE).write_text(card, encoding="utf-8")
        progress.start("check the files")
        check_files(staged, roots=(Path.cwd(), config.folder.resolve().parent))
    rows, left_out = sum(facts.splits.values()), sum(facts.left_out.values())
    return Prepared(
        repo_type="dataset",
        licenses=licenses,
        open_risks=open_risks,
        counts={"rows": rows, "left_out": left_out, **_counts(config.staging_dir)},
        details={"splits": dict(facts.splits), "left_out_by_reason": dict(facts.left_out)},
        has_own_data=OWN_DATA.name in facts.licenses,
    )


def _report_names(paths: list[Path]) -> Mapping[str, Path]:
    """Name each report by its folder; two of one name get a number."""
    names: dict[str, Path] = {}
    for path in paths:
        name, number = path.parent.name, 2
        while name in names:
            name, number = f"{path.parent.name}-{number}", number + 1
        names[name] = path
    return names


def _counts(folder: Path) -> dict[str, int | float]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}


def _target(config: PushConfig, repo_type: str, *, has_own_data: bool = False) -> Target:
    return Target(
        repo_id=config.repo_id,
        repo_type=repo_type,
        private=config.private,
        must_be_private=has_own_data,
        gated=config.gated,
        revision=config.revision,
        create_pr=config.create_pr,
    )


def _upload(config: PushConfig, prepared: Prepared, progress: Progress) -> dict[str, Any]:
    target = _target(config, prepared.repo_type, has_own_data=prepared.has_own_data)
    done = upload_folder(config.staging_dir, target, progress)
    if not done.is_changed:
        progress.note("The hub already holds exactly this; nothing was sent.")
    return {
        "counts": {"files_sent": done.num_sent},
        "url": done.url,
        "commit": done.commit,
        "revision": done.revision,
        "changed": done.is_changed,
    }


def _overrides(risks: tuple[Risk, ...]) -> str:
    return " ".join(f"--accept-license-risk {risk.name}" for risk in risks)


def _hint(config: PushConfig, risks: tuple[Risk, ...]) -> str:
    command = f"medllava push {config.folder} {config.repo_id}"
    return f"{command} {_overrides(risks)}".strip()

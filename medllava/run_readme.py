"""`README.md` of a run folder: what it is, where it came from, and what to type next.

Train writes it beside every finished model. It repeats the run record and claims nothing more; the
card of a publication, with licenses and scores, is made by push and replaces it there.
"""

from pathlib import Path

from medllava.records import RunRecord

_NOTICE = (
    "**For research only. This is not a medical device: do not use it for diagnosis, treatment or "
    "any other clinical purpose.**"
)


def render_run_readme(run: RunRecord, folder: Path) -> str:
    """Return the page of a finished run.

    Args:
        run: as `run.json` holds it.
        folder: of the run, for the commands.
    """
    stage = run.stage.value if run.stage else "unknown"
    parts = [f"- {role.replace('_', ' ')}: {part.source}" for role, part in run.parts.items()]
    facts = {
        "steps": run.steps,
        "tokens": run.tokens,
        "seconds": run.seconds,
        "loss, first to last step": f"{_number(run.loss_first)} to {_number(run.loss_last)}",
        "held-out loss": _number(run.validation_loss),
        **{name.replace("_", " "): value for name, value in run.measures.items()},
        "records used": run.data.used,
        "records dropped (see dropped.jsonl)": run.data.dropped,
        "seed": run.seed,
        "hardware": run.machine.device,
        "commit": run.machine.git_commit,
        "SHA-256 of the weights": run.weights_sha256,
    }
    rows = [f"| {name} | {_number(value)} |" for name, value in facts.items()]
    return "\n".join(
        [
            f"# {run.recipe or 'unknown'}, stage {stage}",
            "",
            "A LLaVA checkpoint: transformers loads the folder as it lies. Made by:",
            "",
            f"    {run.command or 'command unknown'}",
            "",
            _NOTICE,
            "",
            f"Started from `{run.init.source or 'unknown'}`. Parts:",
            "",
            *(parts or ["- unknown"]),
            "",
            "| | |",
            "| --- | --- |",
            *rows,
            "",
            "**Not evaluated here**: scores, where there are any, are in `eval/`. Nothing is known "
            "about how often it is right until it is measured.",
            "",
            f"    medllava eval TASK --ckpt {folder}",
            f"    medllava chat image.png --ckpt {folder}",
            f"    medllava push {folder} OWNER/NAME --dry-run",
            "",
            "`recipe.json` holds the settings, `run.json` the whole record, `metrics.jsonl` and "
            "`report.html` the curves. Licenses of parts and data are listed by the dry run.",
            "",
        ]
    )


def _number(value: object) -> str:
    if value is None or value == "":
        return "unknown"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)

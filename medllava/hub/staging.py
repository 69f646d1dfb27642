"""The folder that is uploaded, put together beside the checkpoint under a temporary name.

Only files on the list below are taken, so training state, predictions and whatever else lies in a
run folder stays at home. Weights are hard links where the disk allows it; JSON of ours is copied
with the paths of this machine cut out.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from medllava.errors import DataError
from medllava.hub.card import CARD_MARK
from medllava.hub.privacy import hide_paths
from medllava.layout import (
    CARD_FILE,
    EVAL_DIR,
    EVAL_REPORT_FILE,
    GENERATION_CONFIG_FILE,
    IMAGE_PROCESSOR_FILE,
    METRICS_FILE,
    MODEL_CONFIG_FILE,
    PROCESSOR_FILE,
    RECIPE_FILE,
    RUN_FILE,
    WEIGHTS_INDEX_FILE,
)
from medllava.store import iter_jsonl, read_json

_PROCESSOR = (
    PROCESSOR_FILE,
    IMAGE_PROCESSOR_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
_MODEL = (MODEL_CONFIG_FILE, GENERATION_CONFIG_FILE, WEIGHTS_INDEX_FILE)
_RECORDS = (RECIPE_FILE, RUN_FILE)
_VOCABULARY = {"tokenizer.json", "added_tokens.json", "vocab.json"}


def stage_model(
    checkpoint: Path, staged: Path, *, weights: Sequence[Path], reports: Mapping[str, Path]
) -> None:
    """Fill `staged` with a model's files; `reports` maps a folder name under `eval` to its file."""
    for path in weights:
        _link(path, staged / path.name)
    names = [name for name in (*_MODEL, *_PROCESSOR, *_RECORDS) if (checkpoint / name).is_file()]
    for name in names:
        _copy(checkpoint / name, staged / name)
    for pattern in ("LICENSE*", "NOTICE*"):
        for path in checkpoint.glob(pattern):
            _copy(path, staged / path.name)
    if (checkpoint / METRICS_FILE).is_file():
        lines = iter_jsonl(checkpoint / METRICS_FILE, allow_torn_tail=True)
        text = "".join(json.dumps(hide_paths(line), ensure_ascii=False) + "\n" for _, line in lines)
        (staged / METRICS_FILE).write_text(text, encoding="utf-8")
    for name, report in reports.items():
        _copy(report, staged / EVAL_DIR / name / EVAL_REPORT_FILE)


def stage_folder(source: Path, target: Path) -> None:
    """Put the files of a folder that push made itself under another name of the staged one."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_file():
            _link(path, target / path.name)


@contextmanager
def staging_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `final` on success and vanishes otherwise.

    Raises:
        DataError: `final` exists and was not made by push.
    """
    if final.exists() and not is_staged(final):
        raise DataError(
            f"{final} exists and was not made by push. Name another folder with -o, or remove it."
        )
    temporary = final.with_name(f".{final.name}.tmp")
    _remove(temporary)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _remove(final)
        temporary.rename(final)
    finally:
        _remove(temporary)


def is_staged(folder: Path) -> bool:
    """Tell whether push made `folder` (or it is empty)."""
    if not folder.is_dir():
        return False
    card = folder / CARD_FILE
    if not card.is_file():
        return not any(folder.iterdir())
    return CARD_MARK in card.read_text(encoding="utf-8", errors="replace")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".json" and source.name not in _VOCABULARY:
        text = json.dumps(hide_paths(read_json(source)), indent=2, ensure_ascii=False)
        target.write_text(text + "\n", encoding="utf-8")
    else:
        shutil.copyfile(source, target)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)

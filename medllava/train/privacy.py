"""Nothing of a patient is learned unseen: records through the privacy gate before the first step.

Of data of one's own, the records that will be used are looked at. What `generate-instructions` saw
of their pictures is taken over, so a folder whose gate ran costs no more than reading its files.
"""

from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path

from medllava.data.random_records import RANDOM_DATA
from medllava.errors import DataError
from medllava.privacy.findings import PrivacyMode
from medllava.privacy.gate import GateItem, enforce, look_through
from medllava.privacy.own import NOT_OWN, PUBLISHED, is_own_record, read_choice, record_item
from medllava.progress import Progress
from medllava.records import InstructionRecord
from medllava.train.config import StageRunConfig
from medllava.train.stage_data import StageData


def pass_gate(
    config: StageRunConfig, data: StageData, images: Collection[Path], *, progress: Progress
) -> None:
    """Look at the records of a run before it learns from them, or say why not.

    Args:
        config: `privacy` says what happens where something is found.
        data: the records.
        images: of the usable ones; what was dropped is not looked at.
        progress: told of every record, and of what is not looked at.

    Raises:
        DataError: something was found, or a picture could not be looked at.
        SetupError: pixels could not be looked at.
    """
    mode = config.privacy
    if mode is PrivacyMode.OFF or config.data == RANDOM_DATA:
        return
    sources = [s for s in data.sources() if mode is not PrivacyMode.AUTO or _asks(s, progress)]
    items = _items(sources, set(images), only_own=mode is PrivacyMode.AUTO)
    first = next(items, None)
    if first is None:
        if sources:
            progress.note(NOT_OWN)
        return
    report = look_through(
        chain([first], items),
        config.output_dir,
        earlier=[_folder(source.path) for source in sources],
        progress=progress,
    )
    mode = PrivacyMode.STOP if mode is PrivacyMode.AUTO else mode
    enforce(report, mode, config.output_dir, progress=progress)


def _asks(source: StageData, progress: Progress) -> bool:
    """Tell whether a source is looked at where the user says nothing."""
    choice = read_choice(_folder(source.path))
    if choice is None or choice.asks_again:
        return True
    if choice.is_own:
        progress.note(f"privacy gate: as decided (--privacy {choice.mode}) for {source.path}")
    else:
        progress.note(PUBLISHED)
    return False


def _items(sources: list[StageData], used: set[Path], *, only_own: bool) -> Iterator[GateItem]:
    for source in sources:
        choice = read_choice(_folder(source.path))
        is_own_folder = choice is not None and choice.is_own
        for record in source.records():
            if not isinstance(record, InstructionRecord):
                continue
            if only_own and not (is_own_folder or is_own_record(record)):
                continue
            try:
                item = record_item(record, source.image_root)
            except DataError:
                continue  # a path that leaves its folder: dropped by name while indexing
            if used.issuperset(item.images):
                yield item


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent

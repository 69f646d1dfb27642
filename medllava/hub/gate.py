"""Nothing of a patient is published unseen: the rows of a data set through the privacy gate.

Of data of one's own, every row that would be uploaded is looked at; pictures that the gate saw when
the folder was made are known by their content and are not read again.
"""

from collections import Counter
from collections.abc import Iterator

from medllava.data.sources import image_root
from medllava.hub.config import PushConfig
from medllava.hub.dataset import FIGURES, dataset_kind, iter_figures, iter_records
from medllava.layout import INSTRUCTIONS_FILE
from medllava.privacy.findings import PrivacyMode
from medllava.privacy.gate import GateItem, enforce, look_through
from medllava.privacy.own import (
    NOT_OWN,
    PUBLISHED,
    figure_item,
    is_own_figure,
    is_own_record,
    read_choice,
    record_item,
)
from medllava.progress import Progress


def pass_gate(config: PushConfig, *, progress: Progress) -> None:
    """Look at the rows of a data set before they are packed, or say why not.

    Raises:
        DataError: something was found, or a picture could not be looked at.
        SetupError: pixels could not be looked at.
    """
    folder, mode = config.folder, config.privacy
    if mode is PrivacyMode.OFF:
        return
    choice = read_choice(folder) or read_choice(folder.parent)  # an imported table lies below
    if mode is PrivacyMode.AUTO:
        if choice and choice.is_own and not choice.asks_again:
            progress.note(f"privacy gate: as decided (--privacy {choice.mode}) for {folder}")
            return
        is_own = choice.is_own if choice else any(own for _, own in _items(config))
        if not is_own:
            progress.note(PUBLISHED if choice else NOT_OWN)
            return
        mode = PrivacyMode.STOP
    report = look_through(
        (item for item, _ in _items(config)), folder, earlier=[folder.parent], progress=progress
    )
    enforce(report, mode, folder, progress=progress)


def _items(config: PushConfig) -> Iterator[tuple[GateItem, bool]]:
    """Yield every row that would be uploaded, and whether it is one's own."""
    folder, others = config.folder, Counter[str]()
    if dataset_kind(folder) == FIGURES:
        for figure, _ in iter_figures(folder, others, is_private=config.private):
            yield figure_item(figure, folder), is_own_figure(figure)
        return
    root = image_root(folder / INSTRUCTIONS_FILE, None)
    for record, _ in iter_records(folder, others, is_private=config.private):
        yield record_item(record, root), is_own_record(record)

"""What is told before a picture goes to a server: what the privacy gate's own eyes see in it.

The gate of `medllava.privacy` stops runs; a conversation is a person's own decision, so here they
are told, before the first question about the picture is sent. No word of a tag or picture is told.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from medllava.images.facts import describe_image
from medllava.images.series import Series, find_dicom
from medllava.privacy.findings import Finding, Kind
from medllava.privacy.pixels import INSTALL, TextFinder, has_reader
from medllava.privacy.tags import find_in_tags

Source = str | Path | bytes | Series[bytes]
_MOST_TAGS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One sentence about a picture."""

    text: str
    is_urgent: bool = False
    """A name may leave this machine with the picture."""


class PrivacyWatch:
    """Looks at every picture that is added to a conversation. Usable by several threads."""

    def __init__(self, sent_to: str | None) -> None:
        """Know where pictures go.

        Args:
            sent_to: the server that answers; None where the model is loaded here.
        """
        self._sent_to = sent_to
        self._finder: TextFinder | None = None

    def look(self, source: Source, images: Sequence[Image.Image]) -> list[Told]:
        """Return what the person should know of a source before they ask about it.

        Args:
            source: the file's path, folder of a series, address or bytes.
            images: as the model would be shown them. With a server, a second or two are spent on
                the pixels of each.
        """
        found = list(_find_in_source(source))
        told = list(self._told_of_tags(found))
        if self._sent_to is not None:
            told = [*self._told_of_pixels(source, images, found), *told]
        return told

    def _told_of_tags(self, found: Sequence[Finding]) -> Iterator[Told]:
        names = list(dict.fromkeys(one.where for one in found if one.kind is Kind.TAG))
        if not names:
            return
        more = f" and {len(names) - _MOST_TAGS} more" if len(names) > _MOST_TAGS else ""
        tags = f"This file's tags may tell who a person is ({', '.join(names[:_MOST_TAGS])}{more})"
        yield Told(
            text=f"{tags}; the model sees only the picture."
            if self._sent_to is None
            else f"{tags}. They stay here; only the picture goes to {self._sent_to}."
        )

    def _told_of_pixels(
        self, source: Source, images: Sequence[Image.Image], found: Sequence[Finding]
    ) -> Iterator[Told]:
        if any(one.kind is Kind.BURNED_IN for one in found):
            yield Told(
                text="The file says that text may stand in this picture: a name in it would go to "
                f"{self._sent_to}.",
                is_urgent=True,
            )
        if not has_reader():
            yield Told(text=f"The pixels were not looked at for text: that needs {INSTALL}.")
            return
        finder = self._finder = self._finder or TextFinder()
        if places := sum(len(finder.find(image)) for image in images):
            yield Told(
                text=f"Text stands in this picture (places: {places}): a name in it would go to "
                f"{self._sent_to}.",
                is_urgent=True,
            )
        if (views := _count_views(source)) > 1:
            yield Told(text=f"Text was looked for in this view only, one of {views:,}.")


def _find_in_source(source: Source) -> Iterator[Finding]:
    """Yield what is in the tags of a file, or of every file of a series."""
    if isinstance(source, Series):
        for one in source.slices:
            yield from find_in_tags(one.file)
    elif isinstance(source, bytes):
        yield from find_in_tags(source)
    elif Path(source).is_dir():
        for file in find_dicom(Path(source)):
            yield from find_in_tags(file)
    elif Path(source).is_file():
        yield from find_in_tags(Path(source))


def _count_views(source: Source) -> int:
    """Return how many frames or slices a file has; of a folder each shown slice is looked at."""
    if isinstance(source, str | Path):
        if not Path(source).is_file():
            return 1
        source = Path(source).read_bytes()
    facts = describe_image(source)
    return facts.num_frames * sum(facts.planes.values() or [1])

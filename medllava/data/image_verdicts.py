"""Images that opened before: a second start does not decode what has not changed since.

Before a run is laid out every image is decoded once. That it could be is kept in the user's cache,
for the file of that size and of these times of change; any other file under the name is decoded
again, and so is one that was refused. Kept per folder of images and per version of what decodes.
"""

import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import PIL

import medllava
from medllava.progress import Progress
from medllava.store import cache_folder, write_text

_FOLDER = "images"
_SETTLED_SECONDS = 2.0
"""A file that changed less than this ago may change again within one tick of its clock."""
_SAVED_EVERY = 50_000

Stamp = tuple[int, int, int]
"""Size in bytes, and when contents and entry last changed, in ns."""


class ImageVerdicts:
    """What is known of the images of one folder; several threads may ask at once."""

    def __init__(self, image_root: Path, progress: Progress) -> None:
        """Read what earlier runs found.

        Args:
            image_root: folder that holds the images.
            progress: told if what is found cannot be kept.
        """
        self._root = str(image_root)
        name = f"{image_root.resolve()} {PIL.__version__} {medllava.__version__}"
        digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:32]
        self._file = cache_folder(_FOLDER) / f"{digest}.json"
        self._progress = progress
        self._stamps = _read(self._file)
        self._num_fresh = 0
        self._one_at_a_time = threading.Lock()

    def try_once(
        self, path: Path, *, decode: Callable[[Path], object], trust: Callable[[Path], object]
    ) -> None:
        """Decode an image unless it is the one that opened before.

        Args:
            path: of the image.
            decode: called with it, and may refuse it by an error, which is passed on.
            trust: called with it instead where it opened before.
        """
        stamp = _stamp(path)
        key = os.path.relpath(path, self._root) if stamp else ""
        if stamp and self._stamps.get(key) == stamp:
            trust(path)
            return
        decode(path)
        if stamp:
            with self._one_at_a_time:
                self._stamps[key] = stamp
                self._num_fresh += 1
                if self._num_fresh == _SAVED_EVERY:
                    self._save()

    def save(self) -> None:
        """Keep what was found for the next start."""
        with self._one_at_a_time:
            if self._num_fresh:
                self._save()

    def _save(self) -> None:
        self._num_fresh = 0
        try:
            write_text(self._file, json.dumps(self._stamps))
        except OSError as error:
            self._progress.note(f"the next start will decode all images again ({error})")


def _read(file: Path) -> dict[str, Stamp]:
    """Return what a file holds; nothing if it is absent or damaged."""
    try:
        values = json.loads(file.read_bytes())
        return {str(name): (int(a), int(b), int(c)) for name, (a, b, c) in values.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _stamp(path: Path) -> Stamp | None:
    """Return what tells a file from another one under its name; None where nothing does."""
    try:
        facts = path.stat()
    except (OSError, ValueError):  # decoding says what is wrong
        return None
    newest = max(facts.st_mtime, facts.st_ctime)
    if not stat.S_ISREG(facts.st_mode) or time.time() - newest < _SETTLED_SECONDS:
        return None
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns

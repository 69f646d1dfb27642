"""What `push` is asked to do; torch-free, so the command line can build it instantly."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medllava.layout import EXPORT_DIR, PUSH_DIR
from medllava.privacy.findings import PrivacyMode


@dataclass(frozen=True, slots=True, kw_only=True)
class PushConfig:
    """One publication: a folder of ours, and the repository it goes to."""

    folder: Path
    """A checkpoint, a figures folder or an instructions folder."""
    repo_id: str = ""
    """`name` or `owner/name` on the hub; empty writes the exported files and sends nothing."""
    exports: tuple[str, ...] = ()
    """Formats for other engines, as `export.formats.FORMATS` lists them."""
    reports: tuple[Path, ...] = ()
    """Folders of `medllava eval` that lie outside the checkpoint's own `eval` folder."""
    output_dir: Path | None = None
    """Where the folder to upload is put together; unset: `push` inside `folder`."""
    private: bool = True
    """A new repository is seen by its owner only."""
    gated: Literal["auto", "manual"] | None = None
    """Readers must ask for access: the hub grants it at once, or the owner does."""
    revision: str | None = None
    """Branch to commit to, made if absent; unset: main."""
    create_pr: bool = False
    """Open a pull request instead of committing."""
    dry_run: bool = False
    """Write the folder and its card, check both, open no connection."""
    load_check: bool = True
    """Load the staged model in a fresh process and ask it one question before uploading."""
    accepted_risks: tuple[str, ...] = ()
    """Names of license risks that the user takes on."""
    privacy: PrivacyMode = PrivacyMode.AUTO
    """What happens where a row of a data set may tell who a patient is."""
    shard_bytes: int = 500_000_000
    """Data sets: image bytes per Parquet file, about."""

    @property
    def export_dir(self) -> Path:
        """Folder of the exported files; with a repository they are uploaded as `export/`."""
        if self.repo_id or self.output_dir is None:
            return self.folder / EXPORT_DIR
        return self.output_dir

    @property
    def staging_dir(self) -> Path:
        """Folder that will hold exactly what is uploaded."""
        return self.output_dir or self.folder / PUSH_DIR

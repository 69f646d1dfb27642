"""One rank of a launched run: `python -m medllava.train.rank FOLDER`, as `launch` starts it."""

import argparse
import os
import sys
import threading
import time
import traceback
from pathlib import Path

from medllava.errors import MedllavaError
from medllava.progress import SilentProgress
from medllava.train.rank_files import (
    ProgressFile,
    note_error,
    note_start,
    note_summary,
    read_config,
)

PARENT = "MEDLLAVA_LAUNCHER"
"""Environment variable with `host:process` of the launching process, to end with it."""


def main() -> int:
    """Train as the rank that the environment says; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    _end_with_parent()
    from medllava.train.ranks import find_ranks  # noqa: PLC0415 - after the watch has begun
    from medllava.train.run import train_stage  # noqa: PLC0415

    ranks = find_ranks()
    note_start(folder, ranks.rank)
    progress = ProgressFile(folder) if ranks.is_main else SilentProgress()
    try:
        summary = train_stage(read_config(folder), ranks=ranks, progress=progress)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the launching process must say it
        note_error(folder, ranks.rank, error)
        if not isinstance(error, MedllavaError):
            traceback.print_exc()
        return 1
    note_summary(folder, ranks.rank, summary)
    return 0


def _end_with_parent() -> None:
    """End this process soon after the launching one, which may have been killed."""
    host, _, pid = os.environ.get(PARENT, "").partition(":")
    if host != os.uname().nodename:
        return

    def watch() -> None:
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())

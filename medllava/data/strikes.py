"""Records that a reader struck: `struck.jsonl` beside the instructions, one line with an id each.

`generate-instructions` leaves them out when it runs again, and every reader of the folder leaves
them out until then.
"""

from pathlib import Path

from medllava.errors import RecordError
from medllava.layout import STRUCK_FILE
from medllava.store import iter_jsonl


def read_strikes(folder: Path) -> frozenset[str]:
    """Return the `record_id`s that are struck in an instructions folder.

    Raises:
        RecordError: a line names no record; names file and line.
    """
    file = folder / STRUCK_FILE
    if not file.is_file():
        return frozenset()
    struck = set()
    for number, line in iter_jsonl(file):
        record_id = line.get("record_id")
        if not isinstance(record_id, str) or not record_id:
            raise RecordError(f"a strike needs record_id, a string: {file}, line {number}.")
        struck.add(record_id)
    return frozenset(struck)

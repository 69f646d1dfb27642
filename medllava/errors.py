"""The one exception family: what went wrong, and the exit code a shell script sees.

Every message reads *what is wrong: where. What to do.* Raise the narrowest class. The command line
turns any of these into one line on stderr and the class's exit code; everything else is a bug of
ours and keeps its traceback (exit 1). `ValueError` and `TypeError` stay for misuse of the library.
"""


class MedllavaError(Exception):
    """Base of every error a user can act on."""

    exit_code: int = 1


class RecipeError(MedllavaError):
    """A recipe or a `--set` cannot be used; names file, key, expected and found."""

    exit_code = 3


class DataError(MedllavaError):
    """Input is missing, malformed or does not match; names file and line, or id."""

    exit_code = 4


class RecordError(DataError):
    """One record breaks the schema; names its file and line, or its id."""


class RemoteError(MedllavaError):
    """A service failed after retries; names the service and its last status."""

    exit_code = 5


class SetupError(MedllavaError):
    """Something is not installed or not enough: an extra, a GPU, memory, weights."""

    exit_code = 7

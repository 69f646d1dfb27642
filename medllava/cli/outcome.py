"""How a command ended that did not end well: in words, as an exit code, and as an object.

One place decides this for all commands, so that none of them wraps its calls.
"""

import errno
import os
import traceback
from dataclasses import dataclass

import typer

from medllava.errors import MedllavaError, RemoteError, SetupError

EXIT_BUG, EXIT_SETUP, EXIT_INTERRUPTED = 1, SetupError.exit_code, 130
_ADVICE = {
    errno.ENOSPC: "Free some space, or choose another disk, and run it again.",
    errno.EDQUOT: "Free some of your quota, or choose another disk, and run it again.",
    errno.EROFS: "Choose a folder that can be written.",
    errno.EACCES: "Choose another, or change its permissions.",
    errno.EPERM: "Choose another, or change its permissions.",
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "Check the path: a part of it is a file.",
    errno.EISDIR: "Name a file; this is a folder.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n), or use fewer --workers.",
}
_SQLITE_ERRNO = {8: errno.EROFS, 10: errno.EIO, 13: errno.ENOSPC, 14: errno.EACCES}
"""SQLite's codes for what the system refused its files: READONLY, IOERR, FULL, CANTOPEN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What is told about a run that failed."""

    type: str
    message: str
    exit_code: int
    details: str = ""
    """Usage or traceback, printed before the message."""


def explain(error: BaseException) -> Failure:
    """Return what a person and a script are told about an exception that ended a command."""
    name = type(error).__name__
    if isinstance(error, MedllavaError):
        return Failure(type=_family(error), message=str(error), exit_code=error.exit_code)
    if isinstance(error, KeyboardInterrupt | EOFError | typer.Abort):
        return Failure(type="Interrupted", message="interrupted.", exit_code=EXIT_INTERRUPTED)
    if refusal := _refusal(error):
        return _explain_os(refusal)
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        message = f"not enough memory ({_first_line(error)}). Free some, or make the work smaller."
        return Failure(type="SetupError", message=message, exit_code=EXIT_SETUP)
    if isinstance(error, typer.TyperException):
        return _explain_usage(error)
    return Failure(
        type=name,
        message=f"this is a bug of ours, please report it: {name}: {_first_line(error)}",
        exit_code=EXIT_BUG,
        details="".join(traceback.format_exception(error)),
    )


def _family(error: MedllavaError) -> str:
    """Return the class that scripts may rely on: the one in `errors`, not a room's own below it."""
    classes = [c for c in type(error).__mro__ if c.__module__ == MedllavaError.__module__]
    return type(error).__name__ if classes[0] is MedllavaError else classes[0].__name__


def _refusal(error: BaseException) -> OSError | None:
    """Return what the system refused, also where SQLite says it in a way of its own."""
    if isinstance(error, OSError):
        return error
    number = _SQLITE_ERRNO.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    return OSError(number, os.strerror(number)) if number else None


def _explain_os(error: OSError) -> Failure:
    """Tell the path and the cause: what the system refuses is for the user to put right."""
    if isinstance(error, BrokenPipeError) and error.filename is None:
        message = "whoever read the output closed it before all was written."
        return Failure(type="SetupError", message=message, exit_code=EXIT_SETUP)
    cause = error.strerror or _first_line(error)
    if error.filename is None and isinstance(error, ConnectionError | TimeoutError):
        message = f"the connection failed ({cause}). Try again later."
        return Failure(type="RemoteError", message=message, exit_code=RemoteError.exit_code)
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    where = f": {' -> '.join(names)}" if names else ""
    advice = _ADVICE.get(error.errno or 0, "Put it right and run it again.")
    return Failure(type="SetupError", message=f"{cause}{where}. {advice}", exit_code=EXIT_SETUP)


def _explain_usage(error: typer.TyperException) -> Failure:
    context = getattr(error, "ctx", None)
    message = error.format_message().strip()
    usage = ""
    if context is not None:
        usage = f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n"
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the whole help
        usage, message = f"{message}\n", "no command given."
    return Failure(type="UsageError", message=message, exit_code=error.exit_code, details=usage)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__

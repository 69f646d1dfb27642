"""Text of others made safe to print: a terminal obeys control characters, whoever wrote them.

Models, servers, archives and file names are untrusted. What they say is shown as text; a sequence
that would set a window title, fill the clipboard or clear the screen is spelled out instead.
"""

import codecs
import re
from urllib.parse import urlsplit

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"
    "\u202a-\u202e\u2066-\u2069]"  # these reorder what is read, so that a name can lie
)
_UNDECODABLE = "medllava-latin-1"


def printable(text: str) -> str:
    """Return `text` with control characters spelled out; newline and tab stay."""
    return _CONTROLS.sub(_spell, text)


def repair(text: str) -> str:
    """Return typed text whose bytes were not UTF-8 as what they are in Latin-1.

    Python keeps such bytes of a command line as lone surrogates, which no tokenizer takes.
    """
    data = text.encode("utf-8", "surrogateescape") if text.isprintable() is False else None
    return text if data is None else data.decode("utf-8", _UNDECODABLE)


def without_password(url: str) -> str:
    """Return an address as it may be written down and shown."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _spell(found: re.Match[str]) -> str:
    character = found.group()
    if character == "\r":
        return ""
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _read_as_latin_1(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error(_UNDECODABLE, _read_as_latin_1)
INPUT_ERRORS = _UNDECODABLE
"""How a text stream of the user's reads bytes that are not UTF-8."""

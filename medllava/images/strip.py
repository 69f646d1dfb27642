"""Metadata out of a JPEG or PNG without touching a pixel: what is not picture is left out.

Only for files that a decoder has read to the end. What is kept is a list, so a segment nobody
foresaw is dropped; a file of an unusual make gives None and is encoded anew by the caller.
"""

import re
import zlib

_KEPT_SEGMENTS = frozenset({0xDB, 0xC0, 0xC1, 0xC2, 0xC4, 0xDD, 0xDA})
"""Tables, frame, restart interval and scans of a Huffman-coded JPEG (ITU T.81, table B.1)."""
_START, _END, _SCAN, _JFIF, _ADOBE = 0xD8, 0xD9, 0xDA, 0xE0, 0xEE
_JFIF_LENGTH, _ADOBE_LENGTH = 16, 14
"""Of segments that hold nothing but numbers: no thumbnail, no text."""
_FILL = 0xFF
_INSIDE = frozenset({0x00, *range(0xD0, 0xD8), _FILL})
"""After 0xFF in coded data: a stuffed zero, a restart, another fill byte."""
_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]", re.DOTALL)
_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"IDAT", b"IEND")


def strip_jpeg(data: bytes) -> bytes | None:
    """Return a JPEG without metadata and without what follows its end; None if it is unusual."""
    if data[:2] != bytes((0xFF, _START)):
        return None
    kept = [data[:2]]
    position = 2
    while True:
        match = _MARKER.match(data, position)
        if match is None:
            return None
        marker = data[match.end() - 1]
        start = match.end() - 2
        if marker == _END:
            kept.append(data[start : match.end()])
            return b"".join(kept)
        length = int.from_bytes(data[match.end() : match.end() + 2], "big")
        position = match.end() + length
        segment = data[start:position]
        if length < 2 or position > len(data):
            return None
        if marker in _KEPT_SEGMENTS or _is_plain(marker, segment, length):
            kept.append(segment)
        elif not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            return None
        if marker == _SCAN:
            end = _find_marker(data, position)
            if end < 0:
                return None
            kept.append(data[position:end])
            position = end


def _find_marker(data: bytes, position: int) -> int:
    """Return where the coded data of a scan end: at a marker that is no stuffing and no restart."""
    position = data.find(b"\xff", position)
    while 0 <= position < len(data) - 1 and data[position + 1] in _INSIDE:
        position = data.find(b"\xff", position + (1 if data[position + 1] == _FILL else 2))
    return position if position < len(data) - 1 else -1


def _is_plain(marker: int, segment: bytes, length: int) -> bool:
    """Tell whether a segment says how to read the colors, and nothing else."""
    if marker == _JFIF:
        return length == _JFIF_LENGTH and segment[4:9] == b"JFIF\0"
    return marker == _ADOBE and length == _ADOBE_LENGTH and segment[4:9] == b"Adobe"


def strip_png(data: bytes) -> bytes | None:
    """Return a PNG of its picture chunks alone; None if it needs others or is unusual."""
    if data[:8] != _PNG_HEAD:
        return None
    kept = [_PNG_HEAD]
    position = 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        end = position + 12 + length
        if end > len(data) or kind in {b"PLTE", b"tRNS", b"acTL"}:
            return None
        if kind in _PNG_KEPT:
            chunk = data[position:end]
            if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
                return None
            kept.append(chunk)
        if kind == b"IEND":
            return b"".join(kept)
        position = end
    return None

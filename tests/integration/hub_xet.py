"""The storage behind the loopback hub: the published Xet protocol, as far as an upload needs it.

A client posts xorbs (packed chunks) and then a shard that says which chunks make which file. Files
are put together here and must have the SHA-256 that the shard gives them, so what the hub holds is
what was sent. Source: the Xet protocol specification, version 1 (upload, xorb and shard formats).
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

TOKEN = "xet-" + "short-lived"
_TAG, _ENTRY = 48, 48
_HAS_VERIFICATION, _HAS_SHA256 = 1 << 31, 1 << 30
_END = b"\xff" * 32


def store_xorb(root: Path, name: str, body: bytes) -> bool:
    """Keep the chunks of a xorb; return whether they are new."""
    folder = root / "xorbs" / name
    if folder.exists():
        return False
    folder.mkdir(parents=True)
    for number, chunk in enumerate(_chunks(body)):
        (folder / str(number)).write_bytes(chunk)
    return True


def store_files(root: Path, shard: bytes) -> list[str]:
    """Put together the files of a shard as LFS objects; return their SHA-256.

    Raises:
        ValueError: a file does not have the hash it is given.
    """
    stored = []
    for terms, sha256 in _files(shard):
        content = b"".join(
            (root / "xorbs" / xorb / str(number)).read_bytes()
            for xorb, first, end in terms
            for number in range(first, end)
        )
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError(f"content is not that of {sha256}")
        (root / "lfs" / sha256).write_bytes(content)
        stored.append(sha256)
    return stored


def _chunks(body: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(body) and body[at] == 0:  # version 0; a footer begins otherwise
        packed, scheme, size = _number(body, at + 1, 3), body[at + 4], _number(body, at + 5, 3)
        data = body[at + 8 : at + 8 + packed]
        if scheme:
            data = pa.decompress(data, decompressed_size=size, codec="lz4", asbytes=True)
        yield _ungrouped(data) if scheme == 2 else data
        at += 8 + packed


def _ungrouped(data: bytes) -> bytes:
    """Undo the grouping of bytes by their place in words of four."""
    whole, at = bytearray(len(data)), 0
    for place in range(4):
        length = len(whole[place::4])
        whole[place::4] = data[at : at + length]
        at += length
    return bytes(whole)


def _files(shard: bytes) -> Iterator[tuple[list[tuple[str, int, int]], str]]:
    at = _TAG
    while shard[at : at + 32] != _END:
        flags, count = _number(shard, at + 32, 4), _number(shard, at + 36, 4)
        assert flags & _HAS_SHA256
        at += _ENTRY
        terms = []
        for _ in range(count):
            first, end = _number(shard, at + 40, 4), _number(shard, at + 44, 4)
            terms.append((_name(shard[at : at + 32]), first, end))
            at += _ENTRY
        at += _ENTRY * count if flags & _HAS_VERIFICATION else 0
        yield terms, _name(shard[at : at + 32])
        at += _ENTRY


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def _name(hash_bytes: bytes) -> str:
    """Return a hash as the protocol spells it: four little-endian words."""
    return "".join(hash_bytes[i : i + 8][::-1].hex() for i in range(0, 32, 8))

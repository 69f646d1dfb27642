"""Stub."""

from medllava.errors import SetupError


def run() -> None:
    """Not available yet."""
    raise SetupError("not available yet.")

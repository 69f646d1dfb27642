"""What a step hands back to whoever called it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSummary:
    """What a step did; the `summary` and `artifacts` of `--json`."""

    step: str
    complete: bool = True
    """False: some items are left, and running again goes on (exit 6)."""
    counts: dict[str, int | float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    """JSON values that are not counts: metrics, plans, names."""
    artifacts: dict[str, Path] = field(default_factory=dict)
    hint: str | None = None
    """The command to type next."""

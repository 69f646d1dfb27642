"""The data sets of the LLaVA-Med paper by name: how many conversations of what, with which context.

Numbers are of the published files: conversations counted in them, and of the main set the images by
domain. Prompt and wording are ours; `docs/generate-instructions.md` tells what differs.

Source: LLaVA-Med, Li et al. 2023, section 3 and its released data.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from medllava.errors import DataError
from medllava.records import FigureRecord, Modality

SINGLE_PANEL_BELOW = 0.5
"""`panel_score` under which a figure counts as one picture, as in `fetch-pmc --panels drop`."""

_IMAGES_BY_DOMAIN = {
    Modality.CHEST_XRAY: 8_060,
    Modality.MRI: 16_539,
    Modality.HISTOPATHOLOGY: 17_030,
    Modality.GROSS_PATHOLOGY: 2_552,
    Modality.CT: 17_358,
}
"""Of the set with inline mentions; the shares of all presets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A data set to make again."""

    conversations: int
    """That are kept, not asked for."""
    inline_mentions: bool
    fewest_turns: int = 2
    most_turns: int = 5

    def targets(self, limit: int | None) -> dict[Modality, int]:
        """Return how many conversations to keep of each modality; `limit` makes a smaller set."""
        total = self.conversations if limit is None else min(limit, self.conversations)
        return share_out(total, _IMAGES_BY_DOMAIN)

    def reject_reason(self, figure: FigureRecord) -> str | None:
        """Name why a figure is none of the preset's, or None."""
        if figure.modality not in _IMAGES_BY_DOMAIN:
            return "other_modality"
        return "several_panels" if figure.panel_score >= SINGLE_PANEL_BELOW else None


PRESETS = {
    "llava-med-10k": Preset(conversations=10_712, inline_mentions=False),
    "llava-med-60k": Preset(conversations=60_088, inline_mentions=False),
    "llava-med-60k-im": Preset(conversations=60_017, inline_mentions=True),
}


def find_preset(name: str) -> Preset:
    """Return the preset of a name.

    Raises:
        DataError: there is none of this name.
    """
    if name not in PRESETS:
        raise DataError(f"no preset {name!r}. There are: {', '.join(PRESETS)}.")
    return PRESETS[name]


def share_out(total: int, shares: Mapping[Modality, int]) -> dict[Modality, int]:
    """Divide a number by shares; what rounding leaves goes to the largest remainders."""
    whole = sum(shares.values())
    exact = {name: total * share / whole for name, share in shares.items()}
    parts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: parts[name] - exact[name])
    for name in by_remainder[: total - sum(parts.values())]:
        parts[name] += 1
    return parts

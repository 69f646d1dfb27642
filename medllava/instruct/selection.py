"""Which figures are used, and in which order: in turn, by entity, or until a preset is filled.

A manifest goes in; `FigureRecord`s come out in rounds. Without a preset there is one round. A
preset counts what is kept: a round asks for as many figures of each modality as are still missing,
the next one makes up for those that came to nothing.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping

from medllava.instruct.config import GenerateConfig, Select
from medllava.instruct.facts import named_values
from medllava.instruct.figures import iter_figures, iter_round_robin, manifest_path
from medllava.instruct.gates import FINDING
from medllava.instruct.presets import Preset, find_preset
from medllava.instruct.vocabulary import BODY_PART, MODALITY
from medllava.records import FigureRecord, Modality

RejectReason = Callable[[FigureRecord], str | None]

_CHECK_TAGS = frozenset(
    [
        *("humans", "male", "female", "animals", "adult", "young adult", "middle aged", "aged"),
        *("aged, 80 and over", "adolescent", "child", "child, preschool", "infant"),
        *("infant, newborn", "pregnancy"),
    ]
)
"""Subject headings that say who was studied, not what is seen."""


class Selection:
    """The figures of a run, round by round."""

    def __init__(self, config: GenerateConfig, reject_reason: RejectReason) -> None:
        """Read what is needed to choose; of a preset, the ids of all its figures.

        Args:
            config: of the run.
            reject_reason: names the rule that leaves a figure out unasked, or None.
        """
        self._config = config
        self._manifest = manifest_path(config.figures)
        self._reject_reason = reject_reason
        self.preset: Preset | None = find_preset(config.preset) if config.preset else None
        self._is_first = True
        self._ids: dict[Modality, deque[str]] = {}
        self.targets: dict[Modality, int] = {}
        """Conversations to keep by modality; empty without a preset."""
        if self.preset is not None:
            self.targets = self.preset.targets(config.limit)
        if self.targets or config.select is Select.ENTITIES:
            self._ids = self._ordered_ids()

    def why_not(self, figure: FigureRecord) -> str | None:
        """Name the rule that leaves a figure out unasked, or None."""
        reason = self._reject_reason(figure)
        if reason is None and self.preset is not None:
            return self.preset.reject_reason(figure)
        return reason

    def next_round(self, kept: Mapping[Modality | None, int]) -> Iterator[FigureRecord] | None:
        """Return the figures to ask about next; None where there are no more, or enough is kept.

        Args:
            kept: conversations so far, by modality.
        """
        is_first, self._is_first = self._is_first, False
        if self.targets:
            missing = {m: most - kept.get(m, 0) for m, most in self.targets.items()}
            chosen = {m: self._take(m, number) for m, number in missing.items()}
            if not any(chosen.values()):
                return None
            return self._read(frozenset().union(*chosen.values()))
        if not is_first:
            return None
        if self._ids:
            return self._read(self._balanced_ids())
        return iter_round_robin(self._manifest, split=self._config.split, limit=self._config.limit)

    def missing(self, kept: Mapping[Modality | None, int]) -> dict[str, int]:
        """Return by modality how many conversations the archive could not give."""
        short = {m.value: most - kept.get(m, 0) for m, most in self.targets.items()}
        return {name: number for name, number in short.items() if number > 0}

    def _take(self, modality: Modality, number: int) -> list[str]:
        waiting = self._ids.get(modality, deque())
        return [waiting.popleft() for _ in range(min(max(number, 0), len(waiting)))]

    def _balanced_ids(self) -> frozenset[str]:
        """Return the ids of `limit` figures, in turn from each modality and its entities."""
        limit = self._config.limit
        chosen: list[str] = []
        streams = [deque(ids) for ids in self._ids.values()]
        while streams and (limit is None or len(chosen) < limit):
            for stream in streams:
                if limit is None or len(chosen) < limit:
                    chosen.append(stream.popleft())
            streams = [stream for stream in streams if stream]
        return frozenset(chosen)

    def _read(self, ids: frozenset[str]) -> Iterator[FigureRecord]:
        figures = iter_round_robin(self._manifest, split=self._config.split, limit=None)
        return (figure for figure in figures if figure.figure_id in ids)

    def _ordered_ids(self) -> dict[Modality, deque[str]]:
        """Return by modality the ids of the figures that can be asked about."""
        entities: defaultdict[Modality, dict[str, tuple[str, ...]]] = defaultdict(dict)
        for figure in iter_figures(self._manifest, split=self._config.split):
            if self.why_not(figure) is None:
                told = read_entities(figure) if self._config.select is Select.ENTITIES else ()
                entities[figure.modality][figure.figure_id] = told
        return {
            modality: deque(
                in_turn_by_entity(found) if self._config.select is Select.ENTITIES else found
            )
            for modality, found in entities.items()
        }


def read_entities(figure: FigureRecord) -> tuple[str, ...]:
    """Return what a figure is about: subject headings, else findings and organs of its caption."""
    headings = tuple(h for h in map(str.lower, figure.mesh) if h not in _CHECK_TAGS)
    if headings:
        return headings
    findings = (match[0].lower() for match in FINDING.finditer(figure.caption))
    named = [
        v.answer for topic in (BODY_PART, MODALITY) for v in named_values(topic, figure.caption)
    ]
    return tuple(dict.fromkeys([*findings, *named]))


def in_turn_by_entity(entities: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield ids so that every entity comes as early as any other: each takes a turn.

    A figure belongs to its rarest entity; those without one share a turn.
    """
    frequency = Counter(name for names in entities.values() for name in set(names))
    groups: defaultdict[str, deque[str]] = defaultdict(deque)
    for figure_id, names in entities.items():
        groups[min(names, key=lambda n: (frequency[n], n), default="")].append(figure_id)
    # The rarest first, so that a small limit has seen them.
    waiting = [groups[name] for name in sorted(groups, key=lambda n: (frequency[n], n))]
    while waiting:
        for group in waiting:
            yield group.popleft()
        waiting = [group for group in waiting if group]

"""The sources of a stage's records, as typed or listed in a recipe: parsed, checked, replayed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medllava.errors import RecipeError
from medllava.layout import RUN_FILE
from medllava.recipe import DataSource
from medllava.records import DataRecord, RunRecord
from medllava.store import read_record


def parse_source(text: str) -> DataSource:
    """Read `PATH` or `PATH:WEIGHT`; a path that exists as it stands is a path.

    Raises:
        RecipeError: the weight is not above zero.
    """
    path, separator, weight = text.rpartition(":")
    if not separator or not path or Path(text).exists():
        return DataSource(source=text)
    try:
        value = float(weight)
    except ValueError:
        return DataSource(source=text)
    return check_source(DataSource(source=path, weight=value))


def check_sources(sources: Sequence[DataSource]) -> tuple[DataSource, ...]:
    """See that sources can be mixed: all with a weight, or none.

    Raises:
        RecipeError: some have a weight and some have none, or a number makes no sense.
    """
    for source in sources:
        check_source(source)
    bare = [source.source for source in sources if source.weight is None]
    if bare and len(bare) < len(sources):
        raise RecipeError(
            f"no weight for {bare[0]!r}, and the other data have one. Give every source a weight "
            "(--data A:0.8 --data B:0.2), or none, to go through each once."
        )
    return tuple(sources)


def check_source(source: DataSource) -> DataSource:
    """See that one source's numbers make sense.

    Raises:
        RecipeError: a number is not above zero, or it has both a weight and epochs.
    """
    for name in ("weight", "epochs", "limit"):
        value = getattr(source, name)
        if value is not None and not 0 < value < float("inf"):
            raise RecipeError(f"{name} of {source.source!r} must be above 0; got {value}.")
    if source.weight is not None and source.epochs is not None:
        raise RecipeError(
            f"{source.source!r} has both a weight and epochs. Give one: a weight is a share of "
            "the records drawn, epochs are passes over the source."
        )
    return source


def with_replay(
    sources: tuple[DataSource, ...], replay: float, init: str
) -> tuple[DataSource, ...]:
    """Add the data of the run that `init` is from, at a share of `replay`.

    Raises:
        RecipeError: the share is none, that run or its data is not there, or the new data's own
            shares are open.
    """
    if not replay or not sources:
        return sources
    if not 0 < replay < 1:
        raise RecipeError(f"replay is a share between 0 and 1; got {replay}.")
    run = Path(init) / RUN_FILE
    if not run.is_file():
        raise RecipeError(
            f"replay draws from the data of the run that --init names, and there is no {RUN_FILE}: "
            f"{init}. Name a run's folder, or --set stage.STAGE.replay=0."
        )
    if len(sources) > 1 and sources[0].weight is None:
        raise RecipeError("replay beside several sources wants a weight for each: --data A:0.8.")
    earlier = _earlier(read_record(run, RunRecord).data)
    missing = [source.source for source in earlier if not Path(source.source).exists()]
    if missing or not earlier:
        raise RecipeError(
            f"replay draws from the data of {init}, which is not there any more: "
            f"{missing[0] if missing else 'none is named'}. Put it back, or name another with "
            "--data NEW:0.85 --data OLD:0.15 --set stage.STAGE.replay=0."
        )
    total = sum(source.weight or 1.0 for source in sources)
    new = [replace(s, weight=(s.weight or 1.0) / total * (1 - replay)) for s in sources]
    return (*new, *(replace(s, weight=(s.weight or 0.0) * replay) for s in earlier))


def _earlier(data: DataRecord) -> list[DataSource]:
    """Return the sources of a finished run, weights adding up to one."""
    if not data.mixture:
        return [DataSource(source=data.source, weight=1.0)] if data.source else []
    drawn = [part for part in data.mixture if part.share]
    return [DataSource(source=p.source, weight=p.share, limit=p.limit) for p in drawn]

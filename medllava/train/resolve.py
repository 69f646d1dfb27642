"""From what a user typed to one `StageRunConfig`; needs no torch."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medllava.errors import RecipeError, SetupError
from medllava.layout import RUN_FILE
from medllava.recipe import DataSource, load_recipe
from medllava.records import Stage
from medllava.train.config import FROM_PARTS, StageRunConfig
from medllava.train.sources import check_sources, parse_source, with_replay
from medllava.train.stages import check_batch


def parse_stage(value: str) -> Stage:
    """Return the stage for 1 to 5 or its name.

    Raises:
        RecipeError: it is neither.
    """
    stages = list(Stage)
    if value in stages:
        return Stage(value)
    if value.isdigit() and 1 <= int(value) <= len(stages):
        return stages[int(value) - 1]
    named = ", ".join(f"{number} ({stage})" for number, stage in enumerate(stages, start=1))
    raise RecipeError(f"--stage {value!r}: expected one of {named}.")


def default_output_dir(recipe_name: str, stage: Stage) -> Path:
    """Return where a stage is written when nothing else is said."""
    return Path("runs") / recipe_name / f"stage{list(Stage).index(stage) + 1}"


def resolve_config(
    recipe_name: str,
    *,
    stage: str,
    overrides: Iterable[str] = (),
    data: str | Sequence[str] | None = None,
    init: str | None = None,
    output_dir: Path | None = None,
    is_plan: bool = False,
    **options: Any,  # noqa: ANN401 - fields of StageRunConfig that are taken as they are
) -> StageRunConfig:
    """Fill in what was left out: data from the recipe, the start from the stage before.

    Args:
        recipe_name: shipped name or path.
        stage: 1 to 5 or a name.
        overrides: of the recipe.
        data: where the records are, several each with its weight as `PATH:WEIGHT`; None takes the
            recipe's.
        init: what to start from; None takes the stage before.
        output_dir: None names it after recipe and stage.
        is_plan: neither data nor a start has to be there, for `--dry-run` and `--show-sample`.
        **options: other fields of the result.

    Raises:
        RecipeError: the stage or the recipe cannot be used, or no data is named.
        SetupError: a later stage has nothing to start from.
    """
    recipe = load_recipe(recipe_name, overrides=overrides)
    parsed = parse_stage(stage)
    check_batch(recipe.stage, parsed)
    sources = _sources(data or recipe.stage[parsed].data)
    if not sources and not is_plan:
        raise RecipeError(
            f"no data for stage {parsed.value}: recipe {recipe.name!r}. "
            f"Name it with --data, or set stage.{parsed.value}.data."
        )
    start = init or _default_init(recipe.name, parsed, is_plan=is_plan)
    mixture = with_replay(sources, recipe.stage[parsed].replay, start)
    is_plain = mixture == tuple(DataSource(source=source.source) for source in mixture[:1])
    return StageRunConfig(
        recipe=recipe,
        stage=parsed,
        data=" + ".join(source.describe() for source in mixture),
        mixture=() if is_plain else mixture,
        init=start,
        output_dir=output_dir or default_output_dir(recipe.name, parsed),
        **options,
    )


def _sources(given: str | Sequence[str | DataSource]) -> tuple[DataSource, ...]:
    """Return what `--data` or a recipe names as sources, checked together."""
    listed = [given] if isinstance(given, str) else given
    sources = [parse_source(one) if isinstance(one, str) else one for one in listed if one]
    return check_sources(sources)


def _default_init(recipe_name: str, stage: Stage, *, is_plan: bool) -> str:
    """Return `parts` for the first stage, the finished stage before for the others.

    Fine-tuning, preferences and rewards are each optional: the latest of the stages from
    `instruct` on that is there comes before them.
    """
    if stage is Stage.ALIGN:
        return FROM_PARTS
    stages = list(Stage)
    number = stages.index(stage)
    first = min(number - 1, stages.index(Stage.INSTRUCT))
    for before in reversed(stages[first:number]):
        folder = default_output_dir(recipe_name, before)
        if (folder / RUN_FILE).is_file():
            return str(folder)
    if is_plan:
        return FROM_PARTS
    raise SetupError(
        f"stage {stage.value} starts from the stage before, and there is none: {folder}. "
        f"Name a checkpoint with --init, or --init {FROM_PARTS} to start from the bare parts."
    )

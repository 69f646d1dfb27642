"""The recipe loader is strict and says what to correct."""

from pathlib import Path

import pytest

from medllava.errors import RecipeError
from medllava.recipe import (
    Adapter,
    Attention,
    Recipe,
    find_recipe,
    load_recipe,
    recipe_from_values,
    shipped_recipes,
)
from medllava.records import Stage

MINIMAL = """
name = "mine"
description = "A test."
[model.vision_encoder]
source = "a/vision"
[model.language_model]
source = "a/language"
[stage.align]
learning_rate = 1e-3
[stage.instruct]
learning_rate = 2e-5
[stage.finetune]
learning_rate = 2e-5
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def load_text(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    return load_recipe(write(tmp_path, text), overrides=overrides)


def test_minimal_recipe_takes_defaults(tmp_path: Path) -> None:
    recipe = load_text(tmp_path, MINIMAL)
    assert recipe.data.packing is True
    assert recipe.stage[Stage.INSTRUCT].learning_rate == 2e-5
    assert recipe.train.attention is Attention.AUTO
    assert recipe.train.zero_stage is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.paking=false", "data.paking is not a setting; did you mean data.packing"),
        ("data.packing=1", "data.packing must be bool; got int 1"),
        ("data.max_length=2.5", "data.max_length must be int; got float 2.5"),
        ("stage.align.learning_rate=fast", "stage.align.learning_rate must be float; got str"),
        ("stage.align.adapter=dora", "stage.align.adapter must be one of none, lora, qlora"),
        ("name.x=1", "name is a value, not a table"),
        ("data", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("train.trackers=[1]", "train.trackers[0] must be str"),
    ],
)
def test_bad_override_names_the_key_and_what_was_expected(
    tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_text(tmp_path, MINIMAL, override)
    assert message in str(caught.value)


def test_overrides_take_toml_values_and_bare_words(tmp_path: Path) -> None:
    recipe = load_text(
        tmp_path,
        MINIMAL,
        "stage.instruct.adapter=qlora",
        "stage.align.learning_rate=1",
        "train.trackers=['wandb']",
        "train.zero_stage=3",
        "model.language_model.source=./folder/with=sign",
    )
    assert recipe.stage.instruct.adapter is Adapter.QLORA
    assert recipe.stage.align.learning_rate == 1.0
    assert recipe.train.trackers == ("wandb",)
    assert recipe.train.zero_stage == 3
    assert recipe.model.language_model.source == "./folder/with=sign"


def test_missing_value_and_wrong_table_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"stage\.align\.learning_rate is missing"):
        load_text(tmp_path, MINIMAL.replace("learning_rate = 1e-3\n", "", 1))
    with pytest.raises(RecipeError, match=r"data must be a table, got 3"):
        load_text(tmp_path, "data = 3\n" + MINIMAL)


def test_broken_toml_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"not valid TOML.*mine\.toml"):
        load_text(tmp_path, MINIMAL + "oops = = 1\n")


def test_unknown_recipe_names_the_nearest_and_all_shipped() -> None:
    with pytest.raises(RecipeError, match=r"did you mean llava-med-v1\.5\?") as caught:
        find_recipe("llava-med-v15")
    assert all(name in str(caught.value) for name in shipped_recipes())


def test_resolved_recipe_survives_json(tmp_path: Path) -> None:
    import json

    recipe = load_text(tmp_path, MINIMAL, "train.offload=true", "stage.align.schedule=linear")
    values = json.loads(json.dumps(recipe.to_toml_values()))
    assert recipe_from_values(values, file="recipe.json") == recipe

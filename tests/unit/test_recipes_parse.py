"""Every shipped recipe parses, in an interpreter that loads no torch."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from medllava.recipe import load_recipe, shipped_recipes
from medllava.records import Stage

EXPECTED = {
    "debug",
    "llava-1.5",
    "llava-med-v1",
    "llava-med-v1-biomedclip",
    "llava-med-v1.5",
    "qwen3-4b-siglip2",
    "qwen3-8b-siglip2",
    "radlite-4b",
    "smollm2-135m",
}


def test_all_recipes_are_shipped() -> None:
    assert set(shipped_recipes()) >= EXPECTED


def test_the_wheel_holds_every_recipe_and_no_script() -> None:
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    recipes = {f"recipes/{path.name}" for path in (root / "recipes").glob("*.toml")}
    assert {source for source in included if source.startswith("recipes/")} == recipes


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_recipe_is_named_after_its_file_and_says_what_it_is(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description.endswith(".")
    for part in (recipe.model.vision_encoder, recipe.model.language_model):
        assert part.license != "unknown"
    header = shipped_recipes()[name].read_text(encoding="utf-8").split("\n\n", 1)[0]
    assert header.startswith(f"# {name}: ")
    assert "#   " in header
    prose = [line for line in header.splitlines() if not line.startswith("#   ")]
    assert all(len(line) <= 100 for line in prose)
    for stage in Stage:
        assert 0 < recipe.stage[stage].learning_rate < 0.1


def test_reference_values_of_llava() -> None:
    stages = load_recipe("llava-1.5").stage
    assert (stages.align.learning_rate, stages.align.epochs) == (1e-3, 1)
    assert (stages.instruct.learning_rate, stages.instruct.epochs) == (2e-5, 1)
    assert (stages.align.global_batch_size, stages.instruct.global_batch_size) == (256, 128)


def test_reference_values_of_llava_med() -> None:
    stages = load_recipe("llava-med-v1.5").stage
    assert (stages.align.learning_rate, stages.align.epochs) == (2e-3, 1)
    assert (stages.instruct.learning_rate, stages.instruct.epochs) == (2e-5, 3)
    assert stages.align.global_batch_size == stages.instruct.global_batch_size == 128
    assert load_recipe("llava-med-v1.5").data.max_length == 2048


def test_no_heavy_module_is_loaded_to_read_recipes() -> None:
    script = (
        "import sys\n"
        "from medllava.recipe import load_recipe, shipped_recipes\n"
        "for name in shipped_recipes(): load_recipe(name)\n"
        "heavy = {'torch', 'transformers', 'numpy', 'PIL', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)

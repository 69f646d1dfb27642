import numpy as np
import pytest

from medllava.data.mixture import mix
from medllava.data.prefix_sharing import share_nothing
from medllava.data.schedule import build_schedule
from medllava.errors import RecipeError
from medllava.recipe import DataSource, load_recipe
from medllava.train.sources import check_sources, parse_source


def origins(*sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


@pytest.mark.parametrize(
    ("sizes", "weights"),
    [((1000, 400), (0.8, 0.2)), ((900, 60_000), (85, 15)), ((5000, 700), (1, 2))],
)
def test_shares_are_the_weights_in_every_part_of_a_run(sizes, weights):
    sources = [DataSource(source="x", weight=weight) for weight in weights]
    mixture = mix(origins(*sizes), sources)
    wanted = weights[0] / sum(weights)
    for epoch in range(3):
        drawn = mixture.origins[mixture.order(seed=5, epoch=epoch)]
        assert abs((drawn == 0).mean() - wanted) < 0.01
        for end in (200, len(drawn) // 2):
            assert abs((drawn[:end] == 0).mean() - wanted) < 0.01
    assert mixture.shares[0] == pytest.approx(wanted, abs=0.01)


def test_a_source_is_gone_through_whole_before_any_of_it_repeats():
    mixture = mix(origins(100, 1000), [DataSource(source="x", weight=w) for w in (0.5, 0.5)])
    assert mixture.draws == (100, 100)  # the pass ends when the first source is through
    drawn = np.concatenate([mixture.order(seed=0, epoch=epoch) for epoch in range(10)])
    large = drawn[drawn >= 100]
    assert sorted(large) == list(range(100, 1100))
    assert sorted(drawn[:200][drawn[:200] < 100]) == list(range(100))


def test_without_weights_each_source_is_gone_through_as_often_as_asked():
    sources = [DataSource(source="x"), DataSource(source="y", epochs=0.5)]
    mixture = mix(origins(30, 40), sources)
    assert mixture.draws == (30, 20)
    assert sorted(mixture.order(seed=1, epoch=0))[:30] == list(range(30))


def test_a_schedule_draws_what_the_mixture_says():
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 60, 1400)
    mixture = mix(origins(1000, 400), [DataSource(source="x", weight=w) for w in (0.8, 0.2)])
    values = {"pack_length": 256, "global_batch_size": 16, "micro_batch_size": 1, "world_size": 2}
    for packing in (True, False):
        schedule = build_schedule(
            share_nothing(lengths), packing=packing, epochs=2, seed=3, mixture=mixture, **values
        )
        drawn = [e for step in range(schedule.num_steps) for e in schedule.examples_of_step(step)]
        assert abs((mixture.origins[drawn] == 0).mean() - 0.8) < 0.01
        assert len(drawn) == schedule.num_examples


def test_a_path_with_a_colon_stays_a_path(tmp_path):
    odd = tmp_path / "data:0.5"
    odd.mkdir()
    assert parse_source(str(odd)) == DataSource(source=str(odd))
    assert parse_source(f"{odd}:0.25") == DataSource(source=str(odd), weight=0.25)
    assert parse_source("a/b:0.8") == DataSource(source="a/b", weight=0.8)
    assert parse_source("C:data") == DataSource(source="C:data")


@pytest.mark.parametrize("text", ["a:0", "a:-1", "a:nan", "a:inf"])
def test_a_weight_is_above_zero(text):
    with pytest.raises(RecipeError, match="weight of 'a' must be above 0"):
        parse_source(text)


def test_some_weights_are_none():
    with pytest.raises(RecipeError, match="no weight for 'b'"):
        check_sources([DataSource(source="a", weight=1), DataSource(source="b")])
    with pytest.raises(RecipeError, match="both a weight and epochs"):
        check_sources([DataSource(source="a", weight=1, epochs=2)])


def test_a_recipe_lists_sources_or_names_one():
    listed = load_recipe(
        "debug",
        overrides=['stage.instruct.data=[{source="a", weight=0.8}, {source="b", weight=0.2}]'],
    )
    assert listed.stage.instruct.data == (
        DataSource(source="a", weight=0.8),
        DataSource(source="b", weight=0.2),
    )
    assert load_recipe("debug").stage.instruct.data == "random"
    with pytest.raises(RecipeError, match=r"stage\.instruct\.data\[0\]\.wieght is not a setting"):
        load_recipe("debug", overrides=['stage.instruct.data=[{source="a", wieght=1}]'])

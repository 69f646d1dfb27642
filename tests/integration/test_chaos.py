"""The short form of `python -m tests.chaos`: damaged inputs for every reader."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.chaos.fuzz import mutate, run_fuzz


def test_damaged_inputs_are_read_or_refused_by_every_reader(tmp_path: Path) -> None:
    rows = run_fuzz(tmp_path, cases=600, seed=5)
    assert {row.reader: row.broken for row in rows} == {row.reader: [] for row in rows}
    for row in rows:
        assert row.cases == 120
        assert row.read + row.refused == row.cases
    # The mutations do damage: a harness whose inputs are all fine finds nothing.
    assert sum(row.refused for row in rows) > 200


def test_a_mutation_changes_its_input() -> None:
    import random

    rng = random.Random(0)
    data = bytes(range(256)) * 4
    assert sum(mutate(data, rng) != data for _ in range(100)) > 90

"""The strictest licence decides, and what forbids publishing has a name."""

import pytest

from medllava.errors import DataError
from medllava.hub.facts import Data, ModelFacts, Part, StageRun
from medllava.hub.license_report import Ledger, dataset_ledger, model_ledger
from medllava.hub.provenance import Source


def facts(
    *,
    base: str | None = "Apache-2.0",
    start: str | None = None,
    sources: tuple[Source, ...] = (),
    licenses: dict[str, int] | None = None,
    teachers: dict[str, int] | None = None,
    data_sources: tuple[Source, ...] = (),
) -> ModelFacts:
    stage = StageRun(
        stage="instruct",
        recipe="r",
        data=Data(
            used=10,
            licenses={"CC0": 10} if licenses is None else licenses,
            teachers=teachers or {},
            sources=data_sources,
        ),
        steps=None,
        tokens=None,
        seconds=None,
        seed=None,
        hardware=None,
        git_commit=None,
        packages={},
        carbon_grams=None,
    )
    return ModelFacts(
        parts=(
            Part(role="language_model", source="org/lm", license=base, sources=sources),
            Part(role="vision_encoder", source="random", license=None),
        ),
        stages=(stage,),
        start=start,
        evaluations=(),
        recipe={},
        weights_sha256=None,
    )


def risks(ledger: Ledger) -> list[str]:
    return [risk.name for risk in ledger.risks]


def test_strictest_licence_decides_and_says_why():
    ledger = model_ledger(facts(licenses={"CC0": 5, "CC BY": 3, "CC BY-NC": 2}))
    assert ledger.published_name == "CC BY-NC 4.0"
    assert ledger.reason == "it is the strictest that applies (data instruct: 2 records)"
    assert risks(ledger) == []


def test_package_licences_count_as_well():
    source = Source(name="slides", version="1.0", license="CC BY-NC 4.0")
    assert model_ledger(facts(data_sources=(source,))).terms.hub_tag == "cc-by-nc-4.0"


def test_teacher_terms_reach_the_result():
    ledger = model_ledger(facts(teachers={"gpt-4o": 10}))
    assert ledger.published_name == "OpenAI terms"
    assert ledger.terms.hub_tag is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"base": None}, ["base-license-unknown"]),
        ({"base": "msrla"}, ["base-no-redistribution"]),
        ({"base": "CC BY-ND 4.0"}, ["base-no-redistribution"]),
        ({"start": "someone/model"}, ["base-license-unknown"]),
        ({"licenses": {"CC BY-NC-ND": 1}}, ["data-no-derivatives"]),
        ({"base": "GPL-3.0", "licenses": {"CC BY-NC": 1}}, ["share-alike-conflict"]),
        ({"base": "GPL-3.0", "licenses": {"CC BY": 1}}, []),
        ({"licenses": {}}, []),
    ],
)
def test_combinations_that_forbid_publishing_are_named(changes, expected):
    assert risks(model_ledger(facts(**changes))) == expected


def test_unknown_data_makes_the_licence_unknown_and_says_so():
    ledger = model_ledger(facts(licenses={}))
    assert ledger.published_name == "unknown"
    assert "are not known" in ledger.reason


def test_package_licence_stands_in_for_a_part_that_names_none():
    source = Source(name="llm-tiny", version="1", license="Apache-2.0")
    assert risks(model_ledger(facts(base=None, sources=(source,)))) == []


def test_risks_are_accepted_by_name_only():
    ledger = model_ledger(facts(base=None))
    assert ledger.open_risks(["base-license-unknown"]) == []
    with pytest.raises(DataError, match="Its risks: base-license-unknown"):
        ledger.open_risks(["everything"])


def test_data_set_ledger_has_no_risks_and_the_strictest_row():
    ledger = dataset_ledger({"CC BY": 5, "CC BY-ND": 1}, {}, ())
    assert ledger.published_name == "CC BY-ND 4.0"
    assert risks(ledger) == []

"""The strictest license decides, and what forbids publishing has a name."""

import pytest

from medllava.errors import DataError
from medllava.hub.facts import Data, ModelFacts, Part, StageRun
from medllava.hub.license_report import LicenseReport, dataset_license_report, model_license_report
from medllava.records import Source


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


def risks(licenses: LicenseReport) -> list[str]:
    return [risk.name for risk in licenses.risks]


def test_strictest_license_decides_and_says_why():
    licenses = model_license_report(facts(licenses={"CC0": 5, "CC BY": 3, "CC BY-NC": 2}))
    assert licenses.published_name == "CC BY-NC 4.0"
    assert licenses.reason == "it is the strictest that applies (data instruct: 2 records)"
    assert risks(licenses) == []


def test_package_licenses_count_as_well():
    source = Source(name="slides", version="1.0", license="CC BY-NC 4.0")
    assert model_license_report(facts(data_sources=(source,))).terms.hub_tag == "cc-by-nc-4.0"


def test_teacher_terms_reach_the_result():
    licenses = model_license_report(facts(teachers={"gpt-4o": 10}))
    assert licenses.published_name == "OpenAI terms"
    assert licenses.terms.hub_tag is None


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
    assert risks(model_license_report(facts(**changes))) == expected


def test_unknown_data_makes_the_license_unknown_and_says_so():
    licenses = model_license_report(facts(licenses={}))
    assert licenses.published_name == "unknown"
    assert "are not known" in licenses.reason


def test_package_license_stands_in_for_a_part_that_names_none():
    source = Source(name="llm-tiny", version="1", license="Apache-2.0")
    assert risks(model_license_report(facts(base=None, sources=(source,)))) == []


def test_risks_are_accepted_by_name_only():
    licenses = model_license_report(facts(base=None))
    assert licenses.open_risks(["base-license-unknown"]) == []
    with pytest.raises(DataError, match="Its risks: base-license-unknown"):
        licenses.open_risks(["everything"])


def test_data_set_license_report_has_no_risks_and_the_strictest_row():
    licenses = dataset_license_report({"CC BY": 5, "CC BY-ND": 1}, {}, ())
    assert licenses.published_name == "CC BY-ND 4.0"
    assert risks(licenses) == []


def test_a_license_for_code_is_not_taken_for_one_of_the_pictures_in_it():
    source = Source(name="pixels", version="2", license="BSD-3-Clause", note="slides")
    rows = {row.kind: row for row in model_license_report(facts(data_sources=(source,))).rows}
    assert rows["source"].note == (
        "slides; a license for code: check the terms of the pictures in it"
    )


def test_own_data_stands_against_a_public_repository_and_ranks_as_the_strictest():
    licenses = model_license_report(facts(licenses={"CC BY": 3, "own": 2}))
    assert "own-data-public" in risks(licenses)
    assert licenses.published_name == "own data"

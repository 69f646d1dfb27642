"""What a license's many spellings mean, and which of several is the strictest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medllava.hub.licenses import UNKNOWN, parse_license, teacher_terms


@pytest.mark.parametrize(
    ("text", "name", "hub_tag"),
    [
        ("CC BY", "CC BY", "cc-by-4.0"),
        ("cc_by_nc_sa_3.0", "CC BY-NC-SA 3.0", "cc-by-nc-sa-3.0"),
        ("CC-BY-4.0", "CC BY 4.0", "cc-by-4.0"),
        (
            "https://creativecommons.org/licenses/by-nc-nd/4.0/",
            "CC BY-NC-ND 4.0",
            "cc-by-nc-nd-4.0",
        ),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0 1.0", "cc0-1.0"),
        ("CC0", "CC0 1.0", "cc0-1.0"),
        ("apache-2.0", "Apache-2.0", "apache-2.0"),
        ("Apache License 2.0", "Apache-2.0", "apache-2.0"),
        ("MIT License", "MIT", "mit"),
        ("MIT AND CC BY-NC 4.0", "CC BY-NC 4.0", "cc-by-nc-4.0"),
        ("GPL-2.0 OR MIT", "MIT", "mit"),
        ("llama3.1", "Llama 3.1", "llama3.1"),
    ],
)
def test_spellings_are_read(text, name, hub_tag):
    terms = parse_license(text)
    assert (terms.name, terms.hub_tag) == (name, hub_tag)
    assert terms.is_known


@pytest.mark.parametrize("text", [None, "", "unknown", "see the website", "CC", "CC BY-XY"])
def test_what_the_table_does_not_hold_is_unknown_and_may_not_be_passed_on(text):
    terms = parse_license(text)
    assert not terms.is_known
    assert not terms.may_redistribute
    assert terms.rank == UNKNOWN.rank


def test_unknown_license_keeps_its_own_words():
    assert parse_license("Hospital terms of 2019").name == "Hospital terms of 2019"


def test_stricter_terms_rank_higher():
    names = ["CC0", "MIT", "Apache-2.0", "CC BY", "CC BY-SA", "llama3", "CC BY-NC", "CC BY-NC-SA"]
    names += ["CC BY-ND", "CC BY-NC-ND", "something", "msrla"]
    ranks = [parse_license(name).rank for name in names]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == len(ranks)


@pytest.mark.parametrize(
    ("text", "may_redistribute", "may_derive", "is_commercial"),
    [
        ("CC BY-ND", True, False, True),
        ("CC BY-NC", True, True, False),
        ("TDM", False, False, False),
        ("MIT", True, True, True),
    ],
)
def test_what_licenses_allow(text, may_redistribute, may_derive, is_commercial):
    terms = parse_license(text)
    found = (terms.may_redistribute, terms.may_derive, terms.is_commercial)
    assert found == (may_redistribute, may_derive, is_commercial)


@pytest.mark.parametrize(
    ("teacher", "name"),
    [
        ("template", "no third-party terms"),
        ("gpt-4o-2024-08-06", "OpenAI terms"),
        ("Qwen/Qwen3-VL-8B-Instruct", "Apache-2.0"),
        ("my-own-model", "unknown"),
        ("", "unknown"),
    ],
)
def test_teachers_bring_their_providers_terms(teacher, name):
    assert teacher_terms(teacher).name == name


@given(st.text(max_size=40))
def test_any_text_is_read_and_only_known_ones_allow(text):
    terms = parse_license(text)
    assert terms.is_known or not terms.may_redistribute

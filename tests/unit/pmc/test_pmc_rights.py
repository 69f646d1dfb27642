"""Whose license holds: every place that states one, and what a figure says of rights of its own."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from medllava.cli.app import app
from medllava.pmc.jats import read_article
from medllava.pmc.rights import (
    License,
    check_code,
    combine,
    find_own_license,
    find_rights_flag,
    normalize_code,
)
from medllava.pmc.xml import parse_article

FIXTURES = Path(__file__).parents[2] / "fixtures" / "pmc"
NAMESPACES = (
    'xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:ali="http://www.niso.org/schemas/ali/1.0/"'
)
BY = '<license xlink:href="https://creativecommons.org/licenses/by/4.0/">%s</license>'
WAIVER = (
    "The Creative Commons Public Domain Dedication waiver"
    " (http://creativecommons.org/publicdomain/zero/1.0/) applies to the data made available."
)


def article(meta: str = "", body: str = "") -> bytes:
    return (
        f"<article {NAMESPACES}><front><article-meta>"
        f'<article-id pub-id-type="pmcid">PMC1</article-id>{meta}</article-meta></front>'
        f"<body>{body}</body></article>"
    ).encode()


def permissions(inside: str) -> str:
    return f"<permissions>{inside}</permissions>"


def words(text: str) -> str:
    return permissions(f"<license><license-p>{text}</license-p></license>")


def property_of(code: str) -> str:
    return (
        "<custom-meta-group><custom-meta><meta-name>pmc-license-ref</meta-name>"
        f"<meta-value>{code}</meta-value></custom-meta></custom-meta-group>"
    )


@pytest.mark.parametrize(
    ("meta", "code"),
    [
        (words(f"under the Creative Commons Attribution License. {WAIVER}"), "CC BY"),
        (
            words(
                "under the Creative Commons Attribution-NonCommercial-NoDerivs License."
                " The Creative Commons Public Domain Dedication waiver (CC0) applies to the data."
            ),
            "CC BY-NC-ND",
        ),
        (
            words(
                "Creative Commons Attribution-NonCommercial; data under <ext-link"
                ' xlink:href="http://creativecommons.org/publicdomain/zero/1.0/">CC0</ext-link>'
            ),
            "CC BY-NC",
        ),
        (permissions(BY % "" + (BY % "").replace("/by/", "/by-nc-nd/")), None),
        (permissions(BY % "" + (BY % "").replace("4.0", "3.0")), "CC BY"),
        (permissions(BY % "<license-p>non-commercial use</license-p>"), "CC BY-NC"),
        (
            permissions(
                BY
                % "<license-p>Creative Commons Attribution Non-Commercial: non-commercial use only"
                "</license-p>"
            ),
            "CC BY-NC",
        ),
        (
            permissions(
                BY % "<license-p>CC BY: reuse for commercial and non-commercial purposes"
                "</license-p>"
            ),
            "CC BY",
        ),
        (
            permissions('<license xlink:href="HTTP://CREATIVECOMMONS.ORG/LICENSES/BY-NC/4.0/"/>'),
            "CC BY-NC",
        ),
        (words("see https://creativecommons.org/licenses/by-nc-sa/4.0/ for"), "CC BY-NC-SA"),
        (
            permissions('<license license-type="cc-by"><license-p>Open</license-p></license>'),
            "CC BY",
        ),
        (permissions('<license license-type="CC BY-NC 4.0"/>'), "CC BY-NC"),
        (permissions('<license license-type="open-access"/>'), None),
        (
            "<copyright-statement>\u00a9 2005 X. Open access, terms of the Creative Commons"
            " Attribution License</copyright-statement>",
            "CC BY",
        ),
        (
            '<license license-type="open-access"><p>under the terms of the Creative Commons'
            " Attribution License</p></license>",
            "CC BY",
        ),
        (
            permissions(
                "<ali:license_ref>https://www.elsevier.com/tdm/userlicense/1.0/</ali:license_ref>"
                "<ali:license_ref>https://creativecommons.org/licenses/by/4.0/</ali:license_ref>"
            ),
            "CC BY",
        ),
        (permissions(BY % "") + property_of("CC BY-NC-ND"), "CC BY-NC-ND"),
        (permissions((BY % "").replace("/by/", "/by-nc/")) + property_of("CC BY"), "CC BY-NC"),
        (permissions(BY % "") + property_of("TDM"), "TDM"),
        (permissions((BY % "").replace("/by/", "/by-sa/")) + property_of("CC BY-NC"), None),
        (words("Creative Commons Atribuci\u00f3n-NoComercial 4.0"), "CC BY-NC"),
        (words("Creative Commons Attribution. Commercial use is not permitted"), "CC BY-NC"),
        (words("Creative Commons Attribution. No derivatives without permission"), "CC BY-ND"),
        (words("Oxford Open License permits non-commercial use"), None),
        ("", None),
    ],
)
def test_the_license_is_the_most_restrictive_that_is_stated(meta: str, code: str | None) -> None:
    found = read_article(parse_article(article(meta))).license
    assert found.code == code
    if found.code:
        assert found.basis


def test_a_contradiction_is_no_license_and_says_so() -> None:
    meta = permissions((BY % "").replace("/by/", "/by-sa/")) + property_of("CC BY-NC")
    found = read_article(parse_article(article(meta))).license
    assert found.is_contradicting
    assert "by-sa" in found.basis
    assert "CC BY-NC" in found.basis


def test_combining_never_loosens() -> None:
    codes = [
        "CC0",
        "CC BY",
        "CC BY-SA",
        "CC BY-ND",
        "CC BY-NC",
        "CC BY-NC-SA",
        "CC BY-NC-ND",
        "TDM",
    ]
    for first in codes:
        for second in codes:
            held = combine([License(code=first), License(code=second)]).code
            assert held in {first, second, None}
            for code in (first, second):
                for part in ("NC", "ND", "SA"):
                    assert held is None or held == "TDM" or part not in code or part in held


FIG = (
    '<fig id="F1"><label>Figure 1</label><caption><p>{caption}</p></caption>'
    '<graphic xlink:href="f1.jpg">{graphic}</graphic>{inside}</fig>'
)
ELSEVIER = "<copyright-statement>\u00a9 2016 Elsevier</copyright-statement>"


@pytest.mark.parametrize(
    ("caption", "inside", "graphic", "group", "kind"),
    [
        ("A mass.", "<attrib>Reproduced with permission from X, 2015.</attrib>", "", "", "credit"),
        ("A mass.", "<attrib>Photo: J. Smith</attrib>", "", "", "credit"),
        ("A mass.", "<attrib>Source: World Health Organization</attrib>", "", "", "credit"),
        ("A mass.", "<attrib>Source: authors' own data</attrib>", "", "", None),
        ("A mass.", "", "<attrib>Courtesy of X</attrib>", "", "credit"),
        ("A mass.", "", permissions(ELSEVIER), "", "own permissions"),
        ("A mass.", "", "", permissions(ELSEVIER), "own permissions"),
        ("A mass.", ELSEVIER, "", "", "own permissions"),
        ("A mass.", permissions(ELSEVIER), "", "", "own permissions"),
        (
            "A mass.",
            permissions("<copyright-statement>\u00a9 Authors</copyright-statement>" + BY % ""),
            "",
            "",
            None,
        ),
        ("A mass, adapted from Smith et al.", "", "", "", "wording"),
        ("A mass, adapted from Smith et al. under CC BY 4.0.", "", "", "", None),
        ("A mass, adapted from Smith.", permissions(BY % ""), "", "", None),
        ("A mass. Reprinted with permission.", permissions(BY % ""), "", "", "wording"),
        ("A mass of the liver.", "", "", "", None),
    ],
)
def test_a_doubt_about_a_figure_is_named_with_its_words(
    caption: str, inside: str, graphic: str, group: str, kind: str | None
) -> None:
    figure = FIG.format(caption=caption, inside=inside, graphic=graphic)
    body = f"<fig-group>{group}{figure}</fig-group>" if group else figure
    (read,) = read_article(parse_article(article(permissions(BY % ""), body))).figures
    flag = find_rights_flag(read.caption, read.own)
    assert flag is None if kind is None else flag is not None and flag.startswith(f"{kind}: ")


def test_own_license_of_a_figure_holds() -> None:
    own = permissions((BY % "").replace("/by/", "/by-nc/"))
    body = FIG.format(caption="A mass.", inside=own, graphic="")
    (read,) = read_article(parse_article(article(permissions(BY % ""), body))).figures
    assert find_own_license(read.caption, read.own).code == "CC BY-NC"


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("cc-by", "CC BY"),
        ("CC_BY", "CC BY"),
        ("ccby", "CC BY"),
        ("CC BY 4.0", "CC BY"),
        ("cc by-nc-nd 3.0 IGO", "CC BY-NC-ND"),
        ("CC-BY-ND-NC", "CC BY-NC-ND"),
        ("cc0", "CC0"),
        ("any", "any"),
    ],
)
def test_codes_are_taken_in_every_spelling(written: str, code: str) -> None:
    assert check_code(written) == code


@pytest.mark.parametrize("written", ["CC-BY-XX", "BY", "CC BY-SA-ND", "GPL", ""])
def test_a_code_that_is_none_is_a_usage_error(written: str, tmp_path: Path) -> None:
    command = [
        "fetch-pmc",
        "-o",
        str(tmp_path / "o"),
        "--license",
        written,
        "--input",
        str(tmp_path),
    ]
    assert CliRunner().invoke(app, command).exit_code == 2
    assert not (tmp_path / "o").exists()


def test_blank_code_is_none() -> None:
    assert normalize_code(" ") is None

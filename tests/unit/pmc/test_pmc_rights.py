"""Whose license holds: every place that states one, and what a figure says of rights of its own."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from medllava.cli.app import app
from medllava.pmc.jats import read_article
from medllava.pmc.rights import (
    License,
    OwnRights,
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


CCA = "This is an open access article under the terms of the Creative Commons Attribution License"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"{CCA}. No commercial use is permitted.", "CC BY-NC"),
        (f"{CCA}, which permits use excluding commercial reuse", "CC BY-NC"),
        (f"{CCA}. For commercial re-use, please contact the journal.", "CC BY-NC"),
        (f"{CCA}, which permits use without restriction, including commercial use", "CC BY"),
        (f"{CCA}: build upon it for any purpose, even commercially", "CC BY"),
        (
            f"{CCA}, provided the original work is properly cited, the use is non-commercial and no"
            " modifications or adaptations are made.",
            "CC BY-NC-ND",
        ),
        (
            f"{CCA}. The work cannot be changed in any way or used commercially without permission"
            " from the journal.",
            "CC BY-NC-ND",
        ),
        (
            "licensed under a Creative Commons License, which permits any non-commercial use. You"
            " do not have permission under this licence to share adapted material derived from it.",
            "CC BY-NC-ND",
        ),
        (
            f"{CCA} (CC BY). No use, distribution or reproduction is permitted which does not"
            " comply with these terms.",
            "CC BY",
        ),
        (
            "Creative Commons Attribution 4.0. If material is not included in the article's"
            " Creative Commons licence and your intended use is not permitted by statutory"
            " regulation, you will need to obtain permission directly from the copyright holder.",
            "CC BY",
        ),
        (f"Frontiers Media SA. {CCA}.", "CC BY"),
        (f"{CCA}, new creations are licensed under the identical terms.", "CC BY-SA"),
        ("Creative Commons (CCBYNCND) license", "CC BY-NC-ND"),
        ("licensed under CC_BY_NC 4.0", "CC BY-NC"),
        ("the Creative Commons CC BY\u2013NC\u2013ND license", "CC BY-NC-ND"),
        (
            '<ext-link xlink:href="https://creativecommons.org/licenses/by/4.0/">License</ext-link>,'
            " non-commercial use only",
            "CC BY-NC",
        ),
        ("Creative Commons Atribuci\u00f3n 4.0, sin fines comerciales", "CC BY-NC"),
        ("Creative Commons Attribution, desde que sem fins comerciais", "CC BY-NC"),
        ("Creative Commons Attribution, distribui\u00e7\u00e3o sem restri\u00e7\u00f5es", "CC BY"),
        ("Creative Commons Paternit\u00e9 - Pas de Modification", "CC BY-ND"),
        ("Creative Commons Uznanie autorstwa - U\u017cycie niekomercyjne", "CC BY-NC"),
        (
            "\u77e5\u8bc6\u5171\u4eab\u7f72\u540d-\u975e\u5546\u4e1a\u6027\u4f7f\u7528-\u7981\u6b62\u6f14\u7ece",
            "CC BY-NC-ND",
        ),
        ("GNU Free Documentation License", None),
    ],
)
def test_a_wording_is_read_with_what_it_forbids(text: str, code: str | None) -> None:
    assert read_article(parse_article(article(words(text)))).license.code == code


@pytest.mark.parametrize(
    ("element", "code"),
    [
        (
            f'<license xlink:href="http://creativecommons.org/licences/by-nc/4.0">{CCA}</license>',
            "NC",
        ),
        ('<license xlink:href="http://creativecommons.org/license/by-nc-nd/3.0/"/>', "NC-ND"),
        ('<license license-type="creativeCommonsBy-nc-nd"/>', "NC-ND"),
        ('<license license-type="by-nc"/>', "NC"),
        (
            '<license license-type="CC-BY-ND" xlink:href="http://creativecommons.org/licenses/by/4.0/"/>',
            "ND",
        ),
    ],
)
def test_addresses_and_types_are_read_as_people_write_them(element: str, code: str) -> None:
    found = read_article(parse_article(article(permissions(element)))).license
    assert found.code == f"CC BY-{code}"


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


@pytest.mark.parametrize(
    "caption",
    [
        "Used by permission of Springer.",
        "(Courtesy: Prof. Lee).",
        "Photo credit: Jane Doe.",
        "A mass (modified after Smith et al., 2010).",
        "Image from Wikimedia Commons.",
        "Photograph from reference 12.",
        "Source: Gray's Anatomy, 1918.",
        "\u00a9 Elsevier 2015, not under the CC BY license.",
        "This image is not covered by the Creative Commons license.",
        "Reprinted from X, Elsevier license number 4512.",
        "Imagen reproducida con permiso de Elsevier.",
        "Tomado de Garc\u00eda et al. 2010.",
        "Fuente: OMS.",
        "Reproduzido com permiss\u00e3o da Editora.",
        "Avec l'aimable autorisation de Dr Dupont.",
        "Mit freundlicher Genehmigung von Springer.",
        "Tratto da Rossi et al.",
        "\u6539\u7f16\u81ea\u6587\u732e[12]\u3002",
        "\u7ecfElsevier\u8bb8\u53ef\u8f6c\u8f7d\u3002",
    ],
)
def test_credit_in_a_caption_is_a_doubt_in_every_language(caption: str) -> None:
    assert find_rights_flag(caption, OwnRights()) == f"wording: {caption}"


@pytest.mark.parametrize(
    "caption",
    [
        "Photograph published with the patient's permission.",
        "With the written permission of the patient.",
        "Permission was obtained from the patient for publication.",
        "Biopsy taken from the liver. Images from a 45-year-old man.",
        "Cells modified from wild type.",
        "Source: authors' own data.",
        "Fuente: elaboraci\u00f3n propia.",
        "Fonte: autores.",
        "Con autorizaci\u00f3n del paciente.",
        "\u7ecf\u60a3\u8005\u540c\u610f\u3002",
        "(c) Axial CT. (d) CC by MRI. Light source: xenon lamp.",
    ],
)
def test_consent_and_own_sources_are_no_doubt(caption: str) -> None:
    assert find_rights_flag(caption, OwnRights()) is None


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("<boxed-text><attrib>\u00a9 Wiley</attrib>{}</boxed-text>", "credit"),
        (f"<boxed-text>{{}}{permissions(ELSEVIER)}</boxed-text>", "own permissions"),
        ("<disp-quote><p>Words.</p>{}<attrib>\u00a9 Elsevier</attrib></disp-quote>", "credit"),
        (
            '<p>As in <xref ref-type="fig" rid="F1">Figure 1</xref>, reproduced with permission'
            " from Elsevier.</p>{}",
            "mention",
        ),
        (
            '<p>With permission of the ethics committee (<xref ref-type="fig" rid="F1">Figure 1'
            "</xref>).</p>{}",
            None,
        ),
    ],
)
def test_what_stands_around_a_figure_is_heard(body: str, kind: str | None) -> None:
    figure = FIG.format(caption="A mass.", inside="", graphic="")
    (read,) = read_article(
        parse_article(article(permissions(BY % ""), body.format(figure)))
    ).figures
    flag = find_rights_flag(read.caption, read.own, read.mentions)
    assert flag is None if kind is None else flag is not None and flag.startswith(f"{kind}: ")


@pytest.mark.parametrize(
    ("inside", "kind"),
    [
        ("<p>Reproduced with permission from Elsevier.</p>", "credit"),
        ("<p>Scale bar 10 mm.</p>", None),
    ],
)
def test_words_beside_the_caption_count_where_they_speak_of_rights(
    inside: str, kind: str | None
) -> None:
    body = FIG.format(caption="A mass.", inside=inside, graphic="")
    (read,) = read_article(parse_article(article(permissions(BY % ""), body))).figures
    assert read.own.credit == (inside[3:-4] if kind else "")
    assert (find_rights_flag(read.caption, read.own) is None) == (kind is None)


@pytest.mark.parametrize(
    ("caption", "code"),
    [
        ("A mass. This image is licensed under CC BY-NC 4.0.", "CC BY-NC"),
        ("A mass. Image by M. H\u00e4ggstr\u00f6m, CC BY-SA 4.0.", "CC BY-SA"),
        ("A: CC BY 4.0. B: https://creativecommons.org/licenses/by-nc-nd/4.0/.", "CC BY-NC-ND"),
        ("A: CC BY-NC 4.0. B: CC BY-SA 4.0.", None),
        ("A mass.", None),
    ],
)
def test_a_license_in_the_caption_is_the_figures(caption: str, code: str | None) -> None:
    found = find_own_license(caption, OwnRights())
    assert found.code == code
    assert found.is_contradicting == ("B:" in caption and code is None)


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

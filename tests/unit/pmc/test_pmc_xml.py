"""XML from strangers: what is refused, what is never loaded, what is left out unread."""

import io
from pathlib import Path

import pytest

from medllava.pmc.text import render_text
from medllava.pmc.xml import XmlError, iter_articles, parse_article, parse_xml

BOMB = (
    b'<!DOCTYPE article [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>'
    b"<article><p>&c;</p></article>"
)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (BOMB, "xml-entities"),
        (
            b'<!DOCTYPE article [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
            b"<article><p>&x;</p></article>",
            "xml-entities",
        ),
        (b"<article>" + b"<p>" * 100_000, "xml-too-deep"),
        (b"<article><p></article>", "xml-malformed"),
        (b"", "xml-malformed"),
        (b"<article><p>&nosuch;</p></article>", "xml-malformed"),
    ],
)
def test_hostile_xml_is_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(XmlError) as caught:
        parse_article(data)
    assert caught.value.reason == reason


@pytest.mark.parametrize("root", [b"article", b"pmc-articleset"])
def test_hostile_entities_are_refused_in_an_article_set_too(root: bytes) -> None:
    data = BOMB.replace(b"<article>", b"<" + root + b"><article>").replace(
        b"</article>", b"</article></" + root + b">"
    )
    with pytest.raises(XmlError) as caught:
        list(iter_articles(io.BytesIO(data)))
    assert caught.value.reason == "xml-entities"


@pytest.mark.parametrize("address", ["http://dtd.nlm.nih.gov/x.dtd", "JATS-archivearticle1.dtd"])
def test_external_dtd_is_not_loaded(address: str) -> None:
    data = f'<!DOCTYPE article PUBLIC "-//NLM//DTD" "{address}"><article><p>a b</p></article>'
    assert render_text(parse_xml(data.encode())) == "a b"


def test_external_dtd_on_this_disk_is_not_loaded(tmp_path: Path) -> None:
    dtd = tmp_path / "local.dtd"
    dtd.write_text('<!ENTITY secret "loaded">')
    data = f'<!DOCTYPE article SYSTEM "{dtd.as_uri()}"><article><p>a&secret;b</p></article>'
    assert "loaded" not in render_text(parse_xml(data.encode()))


def test_reference_lists_and_tables_are_left_out_unread() -> None:
    data = (
        b"<article><body><p>one</p><table-wrap id='t'><table/><table-wrap-foot/></table-wrap>two"
        b"</body><back><ref-list><ref/></ref-list>three</back></article>"
    )
    root = parse_article(data)
    assert "".join(root.itertext()) == "onetwothree"
    assert [element.tag for element in root.iter()] == ["article", "body", "p", "back"]


@pytest.mark.parametrize(
    "inside",
    [
        b"<fig id='f'/>",
        b"<!-- </ref-list> -->",
        b"<ref-list/>",
        b"<ref-list><ref/></ref-list>",
        b"<![CDATA[</ref-list>]]>",
    ],
)
def test_what_is_not_plain_is_left_to_the_parser(inside: bytes) -> None:
    data = b"<article><ref-list>" + inside + b"</ref-list><p>kept</p></article>"
    root = parse_article(data)
    assert root.find("ref-list") is not None
    assert root.findtext("p") == "kept"


def test_text_after_an_empty_list_is_kept() -> None:
    root = parse_article(b"<a><ref-list id='x'/><p>kept</p><ref-list><ref/></ref-list></a>")
    assert root.findtext("p") == "kept"

"""Which sentences cite which figure, and what only looks like it."""

import pytest

from medllava.pmc.jats import read_article
from medllava.pmc.xml import parse_article

FIGURES = "".join(
    f'<fig id="F{n}"><label>Figure {n}</label><caption><p>Words on it.</p></caption>'
    f'<graphic href="g{n}.jpg"/></fig>'
    for n in range(1, 6)
)


def mentions_of(body: str) -> dict[str, list[str]]:
    root = parse_article(f"<article><body>{body}{FIGURES}</body></article>".encode())
    return {f.xml_id: list(f.mentions) for f in read_article(root).figures if f.mentions}


def ref(number: int, text: str | None = None) -> str:
    return f'<xref ref-type="fig" rid="F{number}">{text or f"Fig. {number}"}</xref>'


@pytest.mark.parametrize(
    ("body", "cited"),
    [
        (f"<p>Seen ({ref(1)}). Not here.</p>", {"F1": ["Seen (Fig. 1)."]}),
        (
            f"<p>Seen in <bold>{ref(2)}</bold>A, B again. No.</p>",
            {"F2": ["Seen in Fig. 2A, B again."]},
        ),
        (
            '<p>In <xref ref-type="fig" rid="F1 F3">Figs 1 and 3</xref>.</p>',
            {"F1": ["In Figs 1 and 3."], "F3": ["In Figs 1 and 3."]},
        ),
        (
            f"<p>From {ref(1, 'Figs 1')}\u2013{ref(3, '3')} on.</p>",
            {f"F{n}": ["From Figs 1\u20133 on."] for n in (1, 2, 3)},
        ),
        ("<p>Named in Figure 4 only.</p>", {"F4": ["Named in Figure 4 only."]}),
        ("<p>It shows Fig. 4 well.</p>", {"F4": ["It shows Fig. 4 well."]}),
        ("<p>FIGS. 1 to 2 say so.</p>", {f"F{n}": ["FIGS. 1 to 2 say so."] for n in (1, 2)}),
        (
            f"<p>Smith et al. saw E. coli in {ref(1)}. A new one.</p>",
            {"F1": ["Smith et al. saw E. coli in Fig. 1."]},
        ),
        (f"<p>At {ref(1)}a. Then more.</p>", {"F1": ["At Fig. 1a."]}),
        (
            f'<p>Cells <sup><xref ref-type="bibr" rid="r">3,4</xref></sup> in {ref(1)}.</p>',
            {"F1": ["Cells in Fig. 1."]},
        ),
        (f"<list><list-item><p>Item {ref(5)}.</p></list-item></list>", {"F5": ["Item Fig. 5."]}),
    ],
)
def test_citing_sentences(body: str, cited: dict[str, list[str]]) -> None:
    assert mentions_of(body) == cited


@pytest.mark.parametrize(
    "body",
    [
        "<p>See Supplementary Fig. 1 and Fig. S2.</p>",
        "<p>See Extended Data Figure 3.</p>",
        "<p>As in S1 Fig 2.</p>",
        "<p>As in Fig. 1 of ref. 12.</p>",
        "<p>A config 1 of 2.</p>",
        "<p>Figure 2.5 mm wide.</p>",
        f"<table-wrap><caption><p>Like {ref(1)}.</p></caption></table-wrap>",
        f"<fig><caption><p>Like {ref(1)}.</p></caption></fig>",
        f"<sub-article><body><p>Like {ref(1)}.</p></body></sub-article>",
        "<supplementary-material><caption><p>To Figure 2</p></caption></supplementary-material>",
    ],
)
def test_what_cites_no_figure_of_the_article(body: str) -> None:
    assert mentions_of(body) == {}


def test_private_characters_of_a_text_break_nothing() -> None:
    body = f"<p>A \ue000 glyph \ue001 in {ref(2)} \ue000x.</p>"
    assert list(mentions_of(body)) == ["F2"]


def test_mentions_stand_in_reading_order() -> None:
    body = f"<p>Named Figure 1.</p><p>Tagged {ref(1)}.</p><p>Again Figure 1.</p>"
    assert mentions_of(body)["F1"] == ["Named Figure 1.", "Tagged Fig. 1.", "Again Figure 1."]

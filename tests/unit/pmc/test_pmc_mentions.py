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
        (
            f"<p>From {ref(3, 'Figs 3')} to {ref(1, '1')} back.</p>",
            {f"F{n}": ["From Figs 3 to 1 back."] for n in (1, 2, 3)},
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


def cited_by(text: str, labels: dict[str, str], lang: str = "en") -> dict[str, tuple[str, ...]]:
    """The citing sentences by id of a paragraph, beside figures with these labels."""
    figures = "".join(
        f'<fig id="{name}"><label>{label}</label><graphic/></fig>' for name, label in labels.items()
    )
    root = parse_article(
        f'<article xml:lang="{lang}"><body><p>{text}</p>{figures}</body></article>'.encode()
    )
    return {figure.xml_id: figure.mentions for figure in read_article(root).figures}


FIVE = {str(n): f"Figure {n}" for n in range(1, 6)}


@pytest.mark.parametrize(
    ("text", "cited"),
    [
        ("As seen in Figs 1 to 4 here.", "1234"),
        ("See Figs. 1 \u2013 4 here.", "1234"),
        ("See Figures 2 through 4 now.", "234"),
        ("See Figs 2A\u20134C there.", "234"),
        ("See Figs 2A\u2013C and 4.", "24"),
        ("See Figures 1, 3 and 5.", "135"),
        ("See Figures 1-3 and 5.", "1235"),
        ("See Fig. 2a, b, and 3c.", "23"),
        ("See Figure 1S and Fig. 2S.", ""),
        ("See Fig. S1 and Supplementary Figs. 1 to 3.", ""),
        ("See Fig. 1 of ref. 12, Figure 2 in [5] and Fig. 3 in Smith et al.", ""),
        ("As in Figure 3 of Smith and colleagues.", ""),
        ("It was 1.5 mm in Figure 1.5 of the book.", ""),
        ("See Figs 4\u20131 and 5.", "12345"),
        ("See Figures 3 to 1.", "123"),
        ("See Figure 5-1 of the guide.", "15"),
        ("See Fig. 1 to Fig. 3.", "123"),
        ("From Figure 2 through Figure 4.", "234"),
        ("See Fig. 1\u2013Fig. 3 and Figures 4/5.", "12345"),
        ("See Fig 1(a)\u2013(c) and 2(b).", "12"),
        ("See Figure 5A or 4 days later.", "5"),
        ("See e-Figure 3, eFigure 2 and Appendix Figure 1.", ""),
    ],
)
def test_untagged_ranges_credit_what_is_between(text: str, cited: str) -> None:
    assert "".join(name for name, found in cited_by(text, FIVE).items() if found) == cited


@pytest.mark.parametrize(
    ("text", "labels", "cited"),
    [
        (
            "Como se ve en la Figura 1. Las Figuras 2 y 3.",
            ["Figura 1", "Figura 2", "Figura 3"],
            "012",
        ),
        ("Las Figuras 1 a 3 muestran.", ["Figura 1", "Figura 2", "Figura 3"], "012"),
        ("Siehe Abb. 2 und Abbildung 1.", ["Abb. 1", "Abb. 2"], "01"),
        ("Siehe Abb. 1 bis 3.", ["Abb. 1", "Abb. 2", "Abb. 3"], "012"),
        ("\u5982\u56fe1\u6240\u793a\u3002", ["\u56fe1", "\u56fe2"], "0"),
        ("\u5982\u56fe1\u81f33\u6240\u793a\u3002", ["\u56fe 1", "\u56fe 2", "\u56fe 3"], "012"),
        (
            "\u0441\u043c. \u0440\u0438\u0441. 2.",
            ["\u0420\u0438\u0441. 1", "\u0420\u0438\u0441. 2"],
            "1",
        ),
        ("See Fig. II and Figure I.", ["Fig. I", "FIGURE II"], "01"),
        ("See Figs. I\u2013III.", ["Fig. I", "Fig. II", "Fig. III"], "012"),
        ("See Fig. 2-1 and Fig. 1-3.", ["Fig. 1-3", "Fig. 2-1"], "01"),
        ("See Fig. 1.2.", ["Fig. 1.1", "Fig. 1.2"], "1"),
        ("See Fig. 1B.", ["Fig. 1A", "Fig. 1B"], "1"),
        ("See Figure 1.", ["Fig. 1A", "Fig. 1B", "Fig. 2"], "01"),
        ("See Figures 1 and 2.", ["Fig. 1A", "Fig. 1B", "Fig. 2"], "012"),
        ("See Fig. 1A,C and 2.", ["Fig. 1A", "Fig. 1B", "Fig. 1C", "Fig. 2"], "023"),
        ("See Fig. 1A\u2013C.", ["Fig. 1A", "Fig. 1B", "Fig. 1C", "Fig. 1D"], "012"),
        ("See Figure 1.", ["Fig. 1", "Fig. 1A"], "0"),
        ("See Figures 1 and 2.", ["Figure 1 |", "FIGURE 2.\u2014"], "01"),
        ("See Schemes 1 and 2, Figure 1.", ["Scheme 1", "Scheme 2", "Figure 1"], "012"),
        ("V\u00e9ase la Figura 1 y (Fig. 2).", ["Fig. 1", "Fig. 2"], "01"),
        ("Nas Figuras 1 at\u00e9 3.", ["Figura 1", "Figura 2", "Figura 3"], "012"),
        ("Figg. 1 e 2.", ["Fig. 1", "Fig. 2"], "01"),
        ("Siehe Fig. 2 und Abb. 1.", ["Abb. 1", "Abb. 2"], "01"),
        ("Se figur 1 och 2.", ["Figur 1", "Figur 2"], "01"),
        ("Zie figuur 2.", ["Figuur 1", "Figuur 2"], "1"),
        ("Na sliki 2.", ["Slika 1", "Slika 2"], "1"),
        ("Xem H\u00ecnh 2.", ["H\u00ecnh 1", "H\u00ecnh 2"], "1"),
        (
            "\u0395\u03b9\u03ba. 2",
            ["\u0395\u03b9\u03ba\u03cc\u03bd\u03b1 1", "\u0395\u03b9\u03ba\u03cc\u03bd\u03b1 2"],
            "1",
        ),
        ("\u0627\u0644\u0634\u0643\u0644 2", ["\u0634\u0643\u0644 1", "\u0634\u0643\u0644 2"], "1"),
        ("\u5982\u56fe\uff11\u6240\u793a", ["\u56fe1", "\u56fe2"], "0"),
        ("\u56f3\uff11\u301c\uff13\u306b", ["\u56f31", "\u56f32", "\u56f33"], "012"),
        ("\uadf8\ub9bc 1\uacfc 2", ["\uadf8\ub9bc 1", "\uadf8\ub9bc 2"], "01"),
        ("Imagen 1 y Gr\u00e1fico 1.", ["Imagen 1", "Gr\u00e1fico 1"], "01"),
        ("See Figure 01.", ["Figure 1"], "0"),
        ("See Fig. IV\u2013VI.", ["Fig. IV", "Fig. V", "Fig. VI"], "012"),
        ("Figura 1 suplementaria.", ["Figura 1"], ""),
    ],
)
def test_names_of_other_languages_and_numberings_count(
    text: str, labels: list[str], cited: str
) -> None:
    found = cited_by(text, {str(n): label for n, label in enumerate(labels)})
    assert "".join(name for name, sentences in found.items() if sentences) == cited


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "\u7ed3\u679c\u660e\u663e\u3002\u5982\u56fe1\u6240\u793a\u3002\u624b\u672f\u5207\u9664\u3002",
            "\u5982\u56fe1\u6240\u793a\u3002",
        ),
        (
            "Avant. La Fig. 1 est visible. \u00c9l\u00e9vation des enzymes. \u00c0 noter.",
            "La Fig. 1 est visible.",
        ),
        ("Uno. \u00bfVer Fig. 1? S\u00ed.", "\u00bfVer Fig. 1?"),
        ("Eins. Siehe vgl. Fig. 1 oben. \u00d6l.", "Siehe vgl. Fig. 1 oben."),
        ("Xem Fig. 1. \u1ede \u0111\u00e2y.", "Xem Fig. 1."),
        (
            "\u0939\u0948\u0964 \u092f\u0939 Fig. 1 \u0939\u0948\u0964 \u0926\u0942\u0964",
            "\u092f\u0939 Fig. 1 \u0939\u0948\u0964",
        ),
    ],
)
def test_sentences_end_in_every_script(text: str, sentence: str) -> None:
    labels = {"a": "\u56fe1" if "\u56fe" in text else "Fig. 1"}
    assert cited_by(text, labels) == {"a": (sentence,)}


@pytest.mark.parametrize(
    ("caption", "label"),
    [
        ("<title>Figure 2. A scan.</title><p>More words.</p>", "Figure 2"),
        ("<p><bold>Fig. 2:</bold> A scan.</p>", "Fig. 2"),
        ("<title>Figure 2</title>", "Figure 2"),
        ("<p>Figure 2 shows a scan.</p>", ""),
        ("<p>Samples 2. Kept cold.</p>", ""),
    ],
)
def test_a_label_in_front_of_the_caption_counts(caption: str, label: str) -> None:
    root = parse_article(
        f'<article><body><p>See Figure 2.</p><fig id="a"><caption>{caption}</caption><graphic/>'
        "</fig></body></article>".encode()
    )
    (figure,) = read_article(root).figures
    assert figure.label == label
    assert figure.mentions == (("See Figure 2.",) if label else ())


def test_mentions_can_be_left_out() -> None:
    root = parse_article(f"<article><body><p>See {ref(1)}.</p>{FIGURES}</body></article>".encode())
    without = read_article(root, with_mentions=False).figures
    assert [figure.mentions for figure in without] == [()] * 5
    assert [figure.caption for figure in without] == ["Words on it."] * 5


def test_sub_articles_cite_their_own_figures() -> None:
    root = parse_article(
        b'<article><body><p>See Figure 1.</p><fig id="a"><label>Figure 1</label><graphic/></fig>'
        b'</body><response id="r"><body><p>Now <xref rid="b">Image 1</xref> and Figure 1.</p>'
        b'<fig id="b"><label>Image 1</label><graphic/></fig></body></response></article>'
    )
    mentions = {figure.xml_id: figure.mentions for figure in read_article(root).figures}
    assert mentions == {"a": ("See Figure 1.",), "b": ("Now Image 1 and Figure 1.",)}


def test_text_may_call_figures_otherwise_than_their_english_labels() -> None:
    assert cited_by("Siehe Abbildung 2.", FIVE, "de")["2"]
    assert cited_by("\u5982\u56fe2\u6240\u793a\u3002", FIVE, "zh")["2"]
    assert not cited_by("Siehe Abbildung 2.", FIVE, "en")["2"]

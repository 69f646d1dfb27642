"""Figures of an article: every place, every image, every word."""

import pytest

from medllava.pmc.jats import Figure, read_article
from medllava.pmc.xml import parse_article


def figures_of(body: str) -> list[Figure]:
    return list(read_article(parse_article(f"<article>{body}</article>".encode())).figures)


@pytest.mark.parametrize(
    ("inside", "graphics"),
    [
        ('<graphic href="a"/><graphic href="b"/>', (("a",), ("b",))),
        ('<graphic id="x" href="a"/><graphic id="y" href="b"/>', (("a",), ("b",))),
        (
            '<graphic id="x" href="a"/><graphic alternate-form-of="x" href="a.gif"/>',
            (("a", "a.gif"),),
        ),
        (
            '<alternatives><graphic href="s.gif"/><graphic href="l.png"/></alternatives>',
            (("l.png", "s.gif"),),
        ),
        (
            '<p><inline-formula><graphic href="f"/></inline-formula></p><graphic href="a"/>',
            (("a",),),
        ),
        ('<media href="film.mp4"/>', ()),
    ],
)
def test_images_of_a_figure(inside: str, graphics: tuple[tuple[str, ...], ...]) -> None:
    [figure] = figures_of(f"<body><fig id='f'>{inside}</fig></body>")
    assert figure.graphics == graphics


@pytest.mark.parametrize(
    ("markup", "words"),
    [
        ("<p>H<sub>2</sub>O and 10<sup>-3</sup> m</p>", "H\u2082O and 10\u207b\u00b3 m"),
        ("<title>One.</title><p>Two <italic>E. coli</italic>.</p>", "One. Two E. coli."),
        ("<p>C<sub>max</sub></p>", "C_{max}"),
        (
            "<p>A <inline-formula><alternatives><math><mi>x</mi></math><tex-math>"
            "\\documentclass{a}\\begin{document}$x$\\end{document}</tex-math></alternatives>"
            "</inline-formula> b</p>",
            "A x b",
        ),
    ],
)
def test_captions_keep_their_words(markup: str, words: str) -> None:
    [figure] = figures_of(f"<body><fig><caption>{markup}</caption></fig></body>")
    assert figure.caption == words


@pytest.mark.parametrize(
    ("before", "after", "context", "is_supplement"),
    [
        ("<body>", "</body>", "body", False),
        ("<floats-group>", "</floats-group>", "floats", False),
        ("<back><app>", "</app></back>", "back", False),
        ("<body><boxed-text>", "</boxed-text></body>", "boxed-text", False),
        ("<sub-article><body>", "</body></sub-article>", "sub-article", True),
        ("<body><supplementary-material>", "</supplementary-material></body>", "body", True),
    ],
)
def test_place_of_a_figure(before: str, after: str, context: str, is_supplement: bool) -> None:
    [figure] = figures_of(f"{before}<fig><label>Figure 1</label></fig>{after}")
    assert (figure.context, figure.is_supplement) == (context, is_supplement)


def test_figures_of_a_group_inherit_its_caption() -> None:
    group = (
        "<body><fig-group id='g'><caption><p>Shared words.</p></caption><fig id='a'/>"
        "<fig id='b'><caption><p>Own words.</p></caption></fig></fig-group></body>"
    )
    assert [(f.caption, f.is_inherited) for f in figures_of(group)] == [
        ("Shared words.", True),
        ("Own words.", False),
    ]


@pytest.mark.parametrize(
    "rights",
    [
        '<permissions><license href="http://creativecommons.org/licenses/by/2.0"/></permissions>',
        '<license href="http://creativecommons.org/licenses/by/2.0"/>',
        "<permissions><license><p>Attribution License"
        " (&lt;url&gt;http://creativecommons.org/licenses/by/2.0&lt;/url&gt;).</p></license></permissions>",
    ],
)
def test_license_is_found_where_old_articles_state_it(rights: str) -> None:
    markup = f"<article><front><article-meta>{rights}</article-meta></front></article>"
    license_ = read_article(parse_article(markup.encode())).license
    assert (license_.code, license_.url) == ("CC BY", "http://creativecommons.org/licenses/by/2.0")

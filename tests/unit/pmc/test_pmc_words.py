"""What the words say: kind of picture, panels, language, date, ids."""

import pytest

from medllava.language import detect_language, language_code
from medllava.pmc.config import FetchConfig
from medllava.pmc.entrez import Entrez
from medllava.pmc.jats import read_article
from medllava.pmc.modality import classify_modality, compute_panel_score
from medllava.pmc.xml import parse_article


@pytest.mark.parametrize(
    ("caption", "modality"),
    [
        ("CT angiography of the aorta", "ct"),
        ("CT angiogram after contrast", "ct"),
        ("MR angiography of the brain", "mri"),
        ("Coronary angiography of the left main stem", "other"),
        ("MR of the knee", "mri"),
        ("Sagittal MR image shows a tear", "mri"),
        ("Axial FLAIR image with a lesion", "mri"),
        ("Two-sample MR of blood pressure on stroke risk", "other"),
        ("Flair for design in science", "other"),
        ("Cycle threshold (CT) of all samples", "other"),
        ("Threshold cycle (Ct) values by RT-PCR", "other"),
        ("CT values of the lesion were 40 HU on axial CT", "ct"),
    ],
)
def test_modality_of_words(caption: str, modality: str) -> None:
    assert classify_modality(caption).value == modality


@pytest.mark.parametrize(
    ("caption", "is_several"),
    [
        ("(A, B) CT before and after.", True),
        ("CT of the chest (a\u2013d).", True),
        ("Panels A and B show CT.", True),
        ("(A) CT. (B) MRI.", True),
        ("(A) CT of the chest.", False),
        ("CT in the arterial phase (H).", False),
        ("CT of the chest.", False),
    ],
)
def test_panels_of_words(caption: str, is_several: bool) -> None:
    score = compute_panel_score(caption, num_images=1, has_gutters=False)
    assert (score >= 0.5) is is_several


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Axial CT of the chest shows a mass in the left lobe.", "en"),
        ("TC de abdomen con contraste que muestra una lesi\u00f3n en el h\u00edgado.", "es"),
        ("La l\u00e9sion est visible dans le foie apr\u00e8s le traitement.", "fr"),
        ("CT des Thorax mit einer Raumforderung in der linken Lunge.", "de"),
        ("Tomografia do t\u00f3rax com les\u00e3o no pulm\u00e3o ap\u00f3s tratamento.", "pt"),
        ("\u80f8\u90e8CT\u663e\u793a\u80bf\u5757", "zh"),
        ("\u80f8\u90e8CT\u3067\u306e\u816b\u7624", "ja"),
        (
            "\u041a\u0422 \u0433\u0440\u0443\u0434\u043d\u043e\u0439",
            "ru",
        ),
        ("CT scan.", "und"),
        ("\u03b1 = 0.05, \u03b2 = 0.8", "und"),
    ],
)
def test_language_of_words(text: str, language: str) -> None:
    assert detect_language(text) == language


@pytest.mark.parametrize(("declared", "code"), [("en-US", "en"), ("ENG", "en"), ("", "und")])
def test_declared_language(declared: str, code: str) -> None:
    assert language_code(declared) == code


HEAD = (
    '<article xml:lang="es" article-type="case-report"><front><journal-meta><journal-title>J Test'
    "</journal-title></journal-meta><article-meta>"
    '<article-id pub-id-type="pmc">PMCPMC7613891</article-id>'
    '<pub-date pub-type="collection"><year>2020</year></pub-date>'
    '<pub-date pub-type="epub"><day>5</day><month>3</month><year>2020</year></pub-date>'
    '<pub-date pub-type="ppub"><month>7</month><year>2021</year></pub-date>'
    "<kwd-group><kwd>glioma</kwd><kwd>edema</kwd></kwd-group>"
    '<kwd-group kwd-group-type="MESH"><title>MeSH terms</title><kwd>Brain</kwd></kwd-group>'
    "</article-meta></front><body>{body}</body></article>"
)


def test_columns_that_people_filter_by() -> None:
    article = read_article(parse_article(HEAD.format(body="").encode()))
    assert (article.pmcid, article.language, article.published) == (
        "PMC7613891",
        "es",
        "2020-03-05",
    )
    assert (article.journal, article.article_type) == ("J Test", "case-report")
    assert (article.keywords, article.mesh) == (("glioma", "edema"), ("Brain",))


@pytest.mark.parametrize(
    ("caption", "captions"),
    [
        (
            '<caption xml:lang="es"><p>Imagen de TC.</p></caption>'
            '<caption xml:lang="en"><p>CT image.</p></caption>',
            (("es", "Imagen de TC."), ("en", "CT image.")),
        ),
        (
            "<caption><p>\u56fe1 \u80f8\u90e8CT\u663e\u793a\u80bf\u5757</p>"
            "<p>Axial CT of the chest shows a mass in the lobe.</p></caption>",
            (
                ("zh", "\u56fe1 \u80f8\u90e8CT\u663e\u793a\u80bf\u5757"),
                ("en", "Axial CT of the chest shows a mass in the lobe."),
            ),
        ),
        (
            "<caption><title>Imagen.</title><p>TC de abdomen con una lesi\u00f3n.</p></caption>",
            (("es", "Imagen. TC de abdomen con una lesi\u00f3n."),),
        ),
    ],
)
def test_captions_in_two_languages_are_taken_apart(
    caption: str, captions: tuple[tuple[str, str], ...]
) -> None:
    body = f'<fig id="a"><label>Figura 1</label>{caption}<graphic/></fig>'
    (figure,) = read_article(parse_article(HEAD.format(body=body).encode())).figures
    assert figure.captions == captions
    english = [text for code, text in captions if code == "en"]
    assert figure.caption == (english or [captions[0][1]])[0]


def test_prefix_written_twice_is_one_id() -> None:
    found = list(Entrez(FetchConfig(output_dir=".")).iter_converted(["PMCPMC7613891", "pmc12.1"]))
    assert found == ["PMC7613891", "PMC12"]


def test_math_keeps_its_meaning() -> None:
    body = (
        '<fig><caption><p><math xmlns="m"><mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow>'
        "<mi>c</mi></mfrac><mo>=</mo><msqrt><mrow><mi>x</mi><mo>+</mo><mn>1</mn></mrow></msqrt>"
        "</math></p></caption></fig>"
    )
    (figure,) = read_article(parse_article(HEAD.format(body=body).encode())).figures
    assert figure.caption == "(a+b)/c=\u221a(x+1)"

"""Gates and languages: probe pairs as a careful reader wants them, one flaw each."""

from collections.abc import Callable

import pytest

from medllava.errors import DataError
from medllava.instruct.context import read_context
from medllava.instruct.conversations import read_reply, wanted_languages
from medllava.instruct.filters import filter_pairs
from medllava.instruct.gates import gate_pairs, grounded_score
from medllava.instruct.option_gates import find_odd_option, find_two_right
from medllava.instruct.parse import Pair
from medllava.instruct.phrases import check_language
from medllava.records import FigureRecord

CAPTION = (
    "Axial contrast-enhanced CT of the abdomen showing a hypodense lesion of 4.2 cm in the right "
    "lobe of the liver. There is no dilatation of the bile ducts."
)
MakeFigure = Callable[..., FigureRecord]


def judged(question: str, answer: str, figure: FigureRecord) -> str | None:
    """Return what drops a pair, None if it is kept."""
    filtered = filter_pairs(
        (Pair(question, answer),), languages=wanted_languages(None, figure.caption)
    )
    if filtered.dropped:
        return filtered.dropped[0].rule
    dropped = gate_pairs(filtered.pairs, read_context(figure))[1]
    return dropped[0].rule if dropped else None


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What kind of image is this?", "This is an axial CT section through the abdomen."),
        ("What is seen in the liver?", "A dark lesion lies in the right lobe of the liver."),
        ("Where is the lesion?", "It lies in the right lobe, on the left of the image."),
        ("Is the lesion darker than the liver around it?", "Yes, it is darker."),
        ("Are the bile ducts dilated?", "No, the bile ducts are not dilated."),
        ("Is there a pneumothorax?", "No, there is no pneumothorax."),
        ("Was contrast given?", "Yes, contrast was given."),
        ("Is this an MRI?", "No, it is a CT."),
        ("Is this a CT scan?", "Yes."),
        ("Does the scan show the head?", "No."),
        ("How large is the lesion?", "It measures 4.2 cm."),
        ("Is the lesion on the right or the left side of the liver?", "It is on the right."),
        ("Is the plane axial or coronal?", "It is axial."),
        ("Why does the lesion stand out?", "It takes up less contrast than the liver around it."),
        ("Describe the scan.", "The liver fills most of the field; a lesion is seen within it."),
    ],
)
def test_what_the_caption_bears_out_is_kept(
    make_figure: MakeFigure, question: str, answer: str
) -> None:
    assert judged(question, answer, make_figure(caption=CAPTION)) is None


@pytest.mark.parametrize(
    ("reason", "question", "answer"),
    [
        ("contradicts_caption", "What kind of image is this?", "It is an MRI of the abdomen."),
        ("contradicts_caption", "Which plane is shown?", "This is a sagittal section."),
        ("contradicts_caption", "Is this an MRI?", "Yes."),
        ("contradicts_caption", "Is this a CT scan?", "No."),
        ("contradicts_caption", "What organ is shown?", "The picture shows the knee."),
        ("flipped_side", "Where is the lesion?", "It lies in the left lobe of the liver."),
        ("flipped_side", "Is the lesion in the left lobe?", "Yes."),
        ("measurement", "How large is it?", "It measures 6.1 cm."),
        ("measurement", "How large is it?", "It covers 35 % of the liver."),
        ("measurement", "How dense is it?", "It has 12 HU."),
        ("unsupported_finding", "What else is there?", "There is a fracture of a rib."),
        ("unsupported_finding", "What is beside it?", "A large hematoma surrounds it."),
        ("answerable_blind", "What does CT stand for?", "Computed tomography."),
        ("answerable_blind", "What is the function of the liver?", "It makes bile."),
        ("answerable_blind", "Who invented CT?", "Hounsfield did."),
        ("answerable_blind", "What does this CT of the liver show?", "CT of the liver."),
        (
            "copied_example",
            "What does the arrow point at?",
            "It points at a sharply outlined area in the right part of the liver.",
        ),
        ("repetition", "What is seen?", "It is dark and dark and dark and dark and dark."),
        (
            "repetition",
            "What is seen?",
            "A dark area is seen there. It is round. A dark area is seen there.",
        ),
        ("other_language", "What is seen?", "Das Bild zeigt die Leber und eine Stelle darin."),
        (
            "other_language",
            "What is seen?",
            "\u56fe\u50cf\u663e\u793a\u809d\u810f\u6709\u4e00\u4e2a\u75c5\u7076\u3002",
        ),
        ("medical_advice", "What follows?", "A biopsy is needed."),
        ("medical_advice", "What follows?", "Biopsy may be necessary to confirm it."),
        ("medical_advice", "What follows?", "The lesion requires further imaging."),
        ("medical_advice", "What follows?", "It should be resected."),
        ("medical_advice", "What follows?", "Clinical correlation is advised."),
        ("medical_advice", "What follows?", "Consider a biopsy of the lesion."),
        ("medical_advice", "What follows?", "This warrants urgent surgery."),
        ("refusal", "What is seen?", "I cannot provide a diagnosis."),
        ("text_source", "What is seen?", "The caption says it is a lesion."),
    ],
)
def test_each_gate_names_itself(
    make_figure: MakeFigure, reason: str, question: str, answer: str
) -> None:
    assert judged(question, answer, make_figure(caption=CAPTION)) == reason


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("这张图像显示了什么？", "这是一张腹部CT图像，肝脏内可见一个低密度病灶。", None),
        ("病灶位于哪里？", "病灶位于肝脏右叶。", None),
        ("胆管扩张吗？", "没有，胆管未见扩张。", None),
        ("图中是什么？", "抱歉，我无法看到这张图片。", "refusal"),
        ("图中是什么？", "文中未提及。", "refusal"),
        ("图中是什么？", "根据图注，这是肝脏的病灶。", "text_source"),
        ("图中是什么？", "作者描述了一个病灶。", "text_source"),
        ("患者多大年龄？", "患者为54岁男性。", "unseen_fact"),
        ("下一步怎么办？", "建议进行活检。", "medical_advice"),
        ("下一步怎么办？", "患者需要手术治疗。", "medical_advice"),
        ("この画像は何ですか？", "腹部のCT画像で、肝臓に低吸収域が見られます。", None),
        ("病変はどこにありますか？", "肝臓の右葉にあります。", None),
        ("この画像は何ですか？", "申し訳ありませんが、画像を見ることはできません。", "refusal"),
        ("この画像は何ですか？", "キャプションによると、肝臓の病変です。", "text_source"),
        ("どうすべきですか？", "医師に相談してください。", "medical_advice"),
        (
            "¿Qué muestra la imagen?",
            "Es una tomografía del abdomen con una lesión en el hígado.",
            None,
        ),
        ("¿Qué muestra la imagen?", "Lo siento, no puedo ver la imagen.", "refusal"),
        ("¿Qué muestra la imagen?", "Según la leyenda, es una lesión del hígado.", "text_source"),
        ("¿Qué se debe hacer?", "Se recomienda una biopsia de la lesión.", "medical_advice"),
        (
            "Was zeigt das Bild?",
            "Das Bild zeigt die Leber mit einer dunklen Stelle im Lappen.",
            None,
        ),
        ("Was zeigt das Bild?", "Leider kann ich das Bild nicht sehen.", "refusal"),
        ("Was zeigt das Bild?", "Laut der Bildunterschrift ist es die Leber.", "text_source"),
        (
            "Was ist zu tun?",
            "Eine Biopsie ist notwendig, und der Patient sollte operiert werden.",
            "medical_advice",
        ),
        ("Que montre l'image ?", "L'image montre le foie avec une zone sombre dans le lobe.", None),
        ("Que montre l'image ?", "Je suis désolé, je ne peux pas voir l'image.", "refusal"),
        ("Que montre l'image ?", "Selon la légende, c'est une lésion du foie.", "text_source"),
        ("Que faut-il faire ?", "Une biopsie est nécessaire pour le patient.", "medical_advice"),
        (
            "\u0427\u0442\u043e \u043d\u0430 \u0441\u043d\u0438\u043c\u043a\u0435?",
            "\u041d\u0430 \u0441\u043d\u0438\u043c\u043a\u0435 \u043f\u0435\u0447\u0435\u043d\u044c.",
            "other_language",
        ),
    ],
)
def test_pairs_are_held_to_the_rules_of_their_language(
    make_figure: MakeFigure, question: str, answer: str, reason: str | None
) -> None:
    assert judged(question, answer, make_figure(caption="Number 3 .")) == reason


def test_a_language_that_is_asked_for_is_the_only_one() -> None:
    text = '{"turns": [{"question": "What is it?", "answer": "It is the liver."}]}'
    assert read_reply(text, languages=frozenset({"de"}))[2] == "all_turns_dropped"
    assert check_language("German") == "de"
    with pytest.raises(DataError, match=r"no rules for language 'xx'.*zh"):
        check_language("xx")


def test_a_question_and_its_negation_have_two_answers(make_figure: MakeFigure) -> None:
    context = read_context(make_figure(caption=CAPTION))
    pairs = (
        Pair("Is there a lesion in the liver?", "Yes."),
        Pair("Is there no lesion in the liver?", "Yes."),
        Pair("Are the ducts wide?", "No."),
        Pair("Are the ducts not wide?", "Yes."),
    )
    kept, dropped = gate_pairs(pairs, context)
    assert kept == pairs[2:]
    assert {d.rule for d in dropped} == {"inconsistent_pairs"}


def test_a_second_right_option_and_an_odd_one_are_found(make_figure: MakeFigure) -> None:
    context = read_context(make_figure(caption=CAPTION))
    assert find_two_right(("CT", "MRI", "computed tomography"), 0, context)
    assert find_two_right(("liver", "knee", "abdomen"), 0, context)
    assert not find_two_right(("CT", "MRI", "X-ray", "ultrasound"), 0, context)
    assert find_odd_option(("a lesion in the right lobe of the liver", "knee", "eye"), 0)
    assert not find_odd_option(("liver", "knee", "eye"), 0)


def test_words_that_nobody_said_lower_the_score(make_figure: MakeFigure) -> None:
    context = read_context(make_figure(caption=CAPTION))
    close = grounded_score(Pair("What is it?", "A hypodense lesion of the liver."), context)
    far = grounded_score(Pair("What is it?", "Purple elephants dance tonight."), context)
    assert close > 0.9
    assert far == 0.0
    kept, dropped = gate_pairs(
        (Pair("What is it?", "Purple elephants dance tonight."),), context, min_score=0.5
    )
    assert not kept
    assert dropped[0].rule == "ungrounded"

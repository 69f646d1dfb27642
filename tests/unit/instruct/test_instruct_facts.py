import pytest

from medllava.instruct.facts import read_facts
from medllava.instruct.vocabulary import TOPICS


def facts_of(make_figure, caption, **changes):
    return {
        fact.topic.name: fact.answer for fact in read_facts(make_figure(caption=caption, **changes))
    }


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        (
            "Sagittal T1-weighted MRI of the brain.",
            {
                "modality": "MRI",
                "body_part": "brain",
                "plane": "sagittal",
                "sequence": "T1-weighted",
            },
        ),
        (
            "Frontal chest radiograph (X-ray), detail.",
            {"modality": "X-ray", "body_part": "chest", "view": "frontal"},
        ),
        ("Plain X-ray of the leg showing the tibia.", {"modality": "X-ray", "body_part": "tibia"}),
        (
            "Light micrograph of an H&E-stained tissue section, histopathology.",
            {"modality": "histopathology", "stain": "hematoxylin and eosin"},
        ),
        (
            "Histopathology of the colon, immunohistochemistry (IHC) with DAB.",
            {
                "modality": "histopathology",
                "body_part": "colon",
                "stain": "immunohistochemistry",
            },
        ),
        (
            "12 nuclei in fluorescence microscopy of cultured cells.",
            {"modality": "fluorescence microscopy", "count": "12"},
        ),
        (
            "Fundus photograph of the retina of a normal eye.",
            {"modality": "fundus photograph", "body_part": "retina"},
        ),
        ("Whole body bone scan, detail of the skeleton.", {"body_part": "skeleton"}),
        ("Numerous cells with seven nodules.", {"amount": None, "count": "7"}),
        ("Numerous nuclei.", {"amount": "many"}),
        ("(A) MRI before, (B-C) MRI after.", {"modality": "MRI", "panels": "3"}),
        ("a) first b) second", {"panels": "2"}),
        ("Four-panel figure of the left kidney", {"panels": "4", "laterality": "left"}),
        ("CT of the right hip, left panel", {"modality": "CT", "laterality": "right"}),
    ],
)
def test_caption_states_the_fact(make_figure, caption, expected):
    found = facts_of(make_figure, caption)
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("caption", "topic"),
    [
        ("CT and MRI of the brain.", "modality"),
        ("PET/CT of the chest", "modality"),
        ("MRI of the liver and the shoulder", "body_part"),
        ("No MRI was made.", "modality"),
        ("A lesion without brain involvement", "body_part"),
        ("Patients (B) and (C) were treated", "panels"),
        ("From 12 nuclei to 14 nuclei", "count"),
        ("Version 3.5 cells", "count"),
        ("ct values rose", "modality"),
    ],
)
def test_nothing_is_read_from_what_is_not_certain(make_figure, caption, topic):
    assert topic not in facts_of(make_figure, caption)


def test_modality_of_the_record_is_used_only_if_the_caption_names_none(make_figure):
    assert facts_of(make_figure, "A lesion.", modality="mri")["modality"] == "MRI"
    assert facts_of(make_figure, "A CT.", modality="mri")["modality"] == "CT"
    assert "modality" not in facts_of(make_figure, "CT, then MRI.", modality="mri")


def test_answers_are_one_to_three_words_and_unique():
    for topic in TOPICS:
        answers = [value.answer for value in topic.values]
        assert len(set(answers)) == len(answers)
        assert all(len(answer.split()) <= 3 for answer in answers)
        assert len(topic.open_wordings) > 1
        held = {name for value in topic.values for name in value.within}
        assert held <= set(answers)

import json

import pytest

from medllava.data.sources import image_root, iter_instruction_records
from medllava.errors import DataError
from medllava.instruct.alignment import BRIEF_WORDINGS, DETAILED_WORDINGS
from medllava.instruct.config import GenerateConfig, ImagePosition
from medllava.instruct.figures import iter_round_robin, manifest_path
from medllava.instruct.generate import generate_instructions
from medllava.records import IMAGE_TOKEN, AnswerType, Modality, Question, Stage
from medllava.store import iter_jsonl


def rejected(folder):
    return {v["figure_id"]: v["reason"] for _, v in iter_jsonl(folder / "rejected.jsonl")}


@pytest.fixture
def corpus(make_figure):
    return [
        *[make_figure(i) for i in range(10)],
        *[make_figure(i, caption="Long word " * 20, modality="mri") for i in range(10, 16)],
        make_figure(20, images=[]),
        make_figure(21, images=["a.png", "b.png"]),
        make_figure(22, caption="  "),
        make_figure(23, is_retracted=True),
        make_figure(24, split="test"),
    ]


def test_align_pairs_each_usable_figure_with_its_caption(corpus, figures_dir, tmp_path):
    config = GenerateConfig(
        figures=figures_dir(*corpus), output_dir=tmp_path / "out", stage=Stage.ALIGN
    )
    summary = generate_instructions(config)
    records = list(iter_instruction_records(tmp_path / "out"))
    assert [r.record_id for r in records] == [f.figure_id for f in corpus[:16]]
    for record in records:
        user, assistant = record.turns
        assert user.content.count(IMAGE_TOKEN) == 1
        wording = user.content.replace(IMAGE_TOKEN, "").strip()
        is_long = record.modality is Modality.MRI
        assert wording in (DETAILED_WORDINGS if is_long else BRIEF_WORDINGS)
        assert assistant.content == ("Long word " * 20).strip() if is_long else corpus[0].caption
        assert record.license == "CC BY"
    assert len({r.turns[0].content.startswith(IMAGE_TOKEN) for r in records}) == 2
    assert rejected(tmp_path / "out") == {
        "PMC20.1/f1": "no_image",
        "PMC21.1/f1": "several_images",
        "PMC22.1/f1": "no_caption",
        "PMC23.1/f1": "retracted",
    }
    assert summary.counts["records"] == 16
    assert image_root(tmp_path / "out", None).resolve() == (tmp_path / "figures").resolve()


def test_number_of_wordings_is_the_paper_s():
    assert (len(set(BRIEF_WORDINGS)), len(set(DETAILED_WORDINGS))) == (11, 16)


def test_brief_wordings_end_at_thirty_words(make_figure, figures_dir, tmp_path):
    figures = figures_dir(make_figure(1, caption="a " * 29), make_figure(2, caption="a " * 30))
    generate_instructions(
        GenerateConfig(figures=figures, output_dir=tmp_path / "out", stage=Stage.ALIGN)
    )
    short, long = iter_instruction_records(tmp_path / "out")
    assert short.turns[0].content.replace(IMAGE_TOKEN, "").strip() in BRIEF_WORDINGS
    assert long.turns[0].content.replace(IMAGE_TOKEN, "").strip() in DETAILED_WORDINGS


def test_align_is_reproduced_byte_for_byte_and_limit_takes_the_head(corpus, figures_dir, tmp_path):
    figures = figures_dir(*corpus)
    texts = []
    for name, limit in (("a", None), ("b", None), ("c", 4)):
        config = GenerateConfig(
            figures=figures, output_dir=tmp_path / name, stage=Stage.ALIGN, limit=limit
        )
        generate_instructions(config)
        texts.append((tmp_path / name / "instructions.jsonl").read_text())
    assert texts[0] == texts[1]
    assert texts[2] == "".join(texts[0].splitlines(keepends=True)[:4])


def test_template_writes_records_and_their_twin_questions(corpus, figures_dir, tmp_path):
    config = GenerateConfig(
        figures=figures_dir(*corpus),
        output_dir=tmp_path / "out",
        stage=Stage.INSTRUCT,
        questions_per_figure=2,
    )
    summary = generate_instructions(config)
    records = list(iter_instruction_records(tmp_path / "out"))
    questions = [
        Question.from_json(v, where="q") for _, v in iter_jsonl(tmp_path / "out/questions.jsonl")
    ]
    assert [q.id for q in questions] == [r.record_id for r in records]
    for record, question in zip(records, questions, strict=True):
        assert record.turns[0].content == f"{IMAGE_TOKEN}\n{question.question}"
        assert record.turns[1].content == question.answer
        assert record.turns[1].answer_type is question.answer_type
        assert record.images == (question.image,)
        assert record.provenance["categories"] == [question.category]
    assert {q.answer_type for q in questions} == {AnswerType.OPEN, AnswerType.CLOSED}
    assert summary.artifacts["questions"] == tmp_path / "out/questions.jsonl"


def test_template_takes_the_asked_split_only(corpus, figures_dir, tmp_path):
    from medllava.records import Split

    config = GenerateConfig(
        figures=figures_dir(*corpus),
        output_dir=tmp_path / "out",
        stage=Stage.INSTRUCT,
        split=Split.TEST,
    )
    generate_instructions(config)
    assert {r.figure_id for r in iter_instruction_records(tmp_path / "out")} == {"PMC24.1/f1"}


def test_multi_turn_keeps_one_image_token(corpus, figures_dir, tmp_path):
    config = GenerateConfig(
        figures=figures_dir(*corpus),
        output_dir=tmp_path / "out",
        stage=Stage.INSTRUCT,
        questions_per_figure=3,
        multi_turn=True,
        image_position=ImagePosition.AFTER,
    )
    generate_instructions(config)
    records = list(iter_instruction_records(tmp_path / "out"))
    assert max(len(r.turns) for r in records) == 6
    for record in records:
        assert record.turns[0].content.endswith(f"\n{IMAGE_TOKEN}")
        assert sum(t.content.count(IMAGE_TOKEN) for t in record.turns) == 1


def test_figures_without_a_fact_are_rejected_with_their_caption(make_figure, figures_dir, tmp_path):
    figures = figures_dir(make_figure(1), make_figure(2, caption="A growth curve."))
    config = GenerateConfig(figures=figures, output_dir=tmp_path / "out", stage=Stage.INSTRUCT)
    generate_instructions(config)
    (line,) = [v for _, v in iter_jsonl(tmp_path / "out/rejected.jsonl")]
    assert line == {
        "figure_id": "PMC2.1/f1",
        "reason": "no_fact",
        "caption": "A growth curve.",
    }


def test_round_robin_takes_from_each_modality_in_turn(make_figure, figures_dir):
    kinds = ["chest_xray"] * 2 + ["mri"] * 5 + ["histopathology"] * 3 + ["ct"] * 4
    numbers = dict.fromkeys(kinds, 0)
    figures = []
    for i, kind in enumerate(kinds):
        figures.append(make_figure(i, modality=kind, figure_id=f"{kind}{numbers[kind]}"))
        numbers[kind] += 1
    manifest = manifest_path(figures_dir(*figures))
    order = [f.figure_id for f in iter_round_robin(manifest, split=None, limit=9)]
    assert order == [
        *("chest_xray0", "ct0", "mri0", "histopathology0"),
        *("chest_xray1", "ct1", "mri1", "histopathology1"),
        "ct2",
    ]


def test_missing_and_broken_manifests_are_named(tmp_path):
    config = GenerateConfig(figures=tmp_path, output_dir=tmp_path / "out", stage=Stage.ALIGN)
    with pytest.raises(DataError, match="fetch-pmc"):
        generate_instructions(config)
    (tmp_path / "figures.parquet").write_text("nonsense")
    with pytest.raises(DataError, match=r"figures\.parquet"):
        generate_instructions(config)
    assert not (tmp_path / "out/instructions.jsonl").exists()


def test_summary_holds_settings_and_counts(make_figure, figures_dir, tmp_path):
    figures = figures_dir(make_figure(1))
    generate_instructions(
        GenerateConfig(figures=figures, output_dir=tmp_path / "x/out", stage=Stage.ALIGN)
    )
    summary = json.loads((tmp_path / "x/out/summary.json").read_text())
    assert summary["image_dir"] == "../../figures"
    assert summary["counts"] == {"records": 1, "pairs": 1}

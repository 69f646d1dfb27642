"""Key steps by a teacher: what is kept, what is left out by name, who is told, and privacy."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from llm_server import LoopbackModel

from medllava.data.benchmarks.questions import load_asked
from medllava.data.random_records import write_random_questions
from medllava.errors import DataError
from medllava.instruct.config import GenerateConfig
from medllava.instruct.generate import generate_instructions
from medllava.instruct.key_steps import read_steps, usable_steps
from medllava.privacy.findings import PrivacyMode
from medllava.records import AnswerType, Question, Stage

ASKED = Question(
    id="1",
    image="1.png",
    question="Is there fluid in the left chest?",
    answer="yes",
    answer_type=AnswerType.CLOSED,
)


@pytest.mark.parametrize(
    ("reply", "steps"),
    [
        ('{"key_steps": [["meniscus sign", "meniscus"], ["blunted angle"]]}', 2),
        ('Here: {"key_steps": ["meniscus sign", "blunted angle"]} I hope it helps.', 2),
        ('{"key_steps": [["left chest"], ["fluid"], ["Yes."], ["meniscus sign"]]}', 1),
        ('{"key_steps": [["meniscus"], ["Meniscus"], [3, null, "angle"]]}', 2),
        ('{"key_steps": [["a line of far too many words to be any step at all"]]}', 0),
        ('{"key_steps": "meniscus"}', 0),
        ('{"steps": [["meniscus"]]}', 0),
        ('["meniscus"]', 0),
        ("no JSON", 0),
        ("", 0),
    ],
)
def test_steps_are_what_question_and_answer_do_not_say(reply: str, steps: int) -> None:
    assert len(usable_steps(ASKED, read_steps(reply))) == steps


def config_of(data: Path, output_dir: Path, url: str, **changes: object) -> GenerateConfig:
    config = GenerateConfig(
        figures=data,
        output_dir=output_dir,
        stage=Stage.REINFORCE,
        teacher="teacher",
        base_url=url,
        request={"retries": 0},
        privacy=PrivacyMode.OFF,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def test_questions_come_back_with_their_steps(tmp_path: Path) -> None:
    data = write_random_questions(tmp_path / "questions", count=4)
    before = load_asked(str(data), image_dir=None).questions
    useless = json.dumps(
        {"question": before[1].question, "correct answer": before[1].answer}, ensure_ascii=False
    )

    def answer(text: str) -> str:
        return "none" if text == useless else '{"key_steps": [["sharp border", "clear edge"]]}'

    with LoopbackModel(answer).running() as server:
        config = config_of(data, tmp_path / "out", server.url, see_image=True)
        counted = generate_instructions(replace(config, dry_run=True))
        assert counted.counts == {"questions": 4, "requests": 4}
        assert not server.bodies
        summary = generate_instructions(config)
        asked = len(server.bodies)
        assert asked == 4
        shown = server.bodies[0]["messages"][-1]["content"]
        assert any(part["type"] == "image_url" for part in shown)
        again = generate_instructions(config)
        assert len(server.bodies) == asked  # all is in the ledger
    assert summary.complete
    assert again.counts == summary.counts
    assert summary.counts["records"] == 4
    same = [q for q in before if (q.question, q.answer) == (before[1].question, before[1].answer)]
    assert summary.counts["with_key_steps"] == 4 - len(same)
    assert summary.details["rejected_by_reason"] == {"no_usable_steps": len(same)}
    assert summary.hint == f"medllava train --stage 5 --data {tmp_path / 'out'}"
    after = load_asked(str(tmp_path / "out"), image_dir=None)
    assert [replace(q, key_steps=()) for q in after.questions] == list(before)
    assert after.questions[0].key_steps == (("sharp border", "clear edge"),)
    assert after.image_dir is not None
    assert (after.image_dir / str(after.questions[0].image)).is_file()
    assert "sharp border" in (tmp_path / "out/report.html").read_text()


def test_what_was_not_answered_makes_the_run_incomplete(tmp_path: Path) -> None:
    data = write_random_questions(tmp_path / "questions", count=2)
    with LoopbackModel(lambda _: "{}").running() as server:
        server.rejects = lambda _: (500, {"message": "out of order"})
        summary = generate_instructions(config_of(data, tmp_path / "out", server.url))
        assert not summary.complete
        assert summary.counts["unanswered"] == summary.counts["records"] == 2
        server.rejects = lambda _: None
        server.answer = lambda _: '{"key_steps": [["sharp border"]]}'
        summary = generate_instructions(config_of(data, tmp_path / "out", server.url))
    assert summary.complete
    assert summary.counts["with_key_steps"] == 2


def test_questions_that_nobody_looked_at_are_not_sent_out(tmp_path: Path) -> None:
    data = write_random_questions(tmp_path / "questions", count=2)
    with pytest.raises(DataError, match="privacy gate"):
        generate_instructions(
            config_of(data, tmp_path / "out", "http://127.0.0.1:9", privacy=PrivacyMode.AUTO)
        )
    with pytest.raises(DataError, match="needs a model: name it with --teacher"):
        generate_instructions(config_of(data, tmp_path / "out", "", teacher="template"))

"""The whole step against a loopback server that speaks like a teacher, well and badly."""

import json
from collections import Counter
from pathlib import Path

import pytest
from llm_server import LoopbackModel
from PIL import Image

from medllava.data.layouts.stream import iter_llava_json
from medllava.data.sources import iter_instruction_records
from medllava.errors import DataError, RemoteError
from medllava.instruct.config import GenerateConfig
from medllava.instruct.generate import generate_instructions
from medllava.records import IMAGE_TOKEN, Stage
from medllava.store import iter_jsonl

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BAD = ("No idea.", '{"turns": [{"question"', "I am sorry, I cannot see it.", "{}", "User: Why?")


def spell(number: int) -> str:
    return " ".join(NUMBERS[int(digit)] for digit in f"{number:04d}")


def number_in(text: str) -> int:
    return int(text.split("Number ")[1].split()[0])


def converse(text: str) -> str:
    """A good reply that nobody else gets: the number of the caption in words."""
    words = spell(number_in(text))
    turns = [
        {"question": f"What is seen in {words}?", "answer": f"A shape like {words} is in it."},
        {"question": "Is it round?", "answer": f"Yes, as round as {words} and {words} can be."},
    ]
    return json.dumps({"turns": turns})


@pytest.fixture
def server():
    with LoopbackModel(converse).running() as running:
        yield running


@pytest.fixture
def corpus(make_figure, figures_dir):
    def make(count):
        kinds = ("ct", "mri", "gross_pathology")
        return figures_dir(
            *(
                make_figure(i, caption=f"Number {i} .", modality=kinds[i % 3], label="")
                for i in range(count)
            ),
            rows_per_group=500,
        )

    return make


def config(figures: Path, out: Path, server: LoopbackModel, **more: object) -> GenerateConfig:
    values = {"teacher": "m", "base_url": server.url, "concurrency": 8, **more}
    return GenerateConfig(figures=figures, output_dir=out, stage=Stage.INSTRUCT, **values)


def rejected(out: Path) -> dict[str, str]:
    return {v["figure_id"]: v["reason"] for _, v in iter_jsonl(out / "rejected.jsonl")}


def test_figures_become_conversations_with_provenance(server, corpus, tmp_path):
    figures, out = corpus(12), tmp_path / "out"
    summary = generate_instructions(config(figures, out, server, llava_json=True))
    records = list(iter_instruction_records(out))
    assert summary.complete
    assert summary.counts["records"] == 12
    assert [r.modality.value for r in records[:3]] == ["ct", "mri", "gross_pathology"]
    for record in records:
        assert [turn.role for turn in record.turns] == ["user", "assistant"] * 2
        tokens = [turn.content.count(IMAGE_TOKEN) for turn in record.turns]
        assert tokens == [1, 0, 0, 0]
        assert record.license == "CC BY"
        assert record.teacher == "m"
        assert record.provenance["model"] == "m-2025-01-01"
        assert record.provenance["output_tokens"] > 0
        assert record.provenance["time"]
    back = list(iter_llava_json(out / "llava.json"))
    assert [r.turns for r in back] == [r.turns for r in records]
    assert "report" in summary.artifacts


def test_the_image_token_moves_to_the_first_question_that_is_kept(server, corpus, tmp_path):
    server.answer = lambda _: "User: Why?\nAssistant: Sorry.\nUser: What is it?\nAssistant: A rib."
    generate_instructions(config(corpus(1), tmp_path / "out", server))
    (record,) = iter_instruction_records(tmp_path / "out")
    assert record.turns[0].content == f"{IMAGE_TOKEN}\nWhat is it?"
    dropped = [v for _, v in iter_jsonl(tmp_path / "out/rejected.jsonl")]
    assert [(v["reason"], v["answer"]) for v in dropped] == [("refusal", "Sorry.")]


def test_bad_replies_are_kept_with_reason_and_text_and_end_nothing(server, corpus, tmp_path):
    def answer(text: str) -> str:
        number = number_in(text)
        return BAD[number // 2 % len(BAD)] if number % 2 else converse(text)

    server.answer = answer
    summary = generate_instructions(config(corpus(20), tmp_path / "out", server))
    assert summary.complete
    assert summary.counts["records"] == 10
    lines = [v for _, v in iter_jsonl(tmp_path / "out/rejected.jsonl") if "raw" in v]
    assert len(lines) == 10
    assert {v["raw"] for v in lines} == set(BAD)
    assert sum(summary.details["rejected_by_reason"].values()) == 10


def test_the_same_answer_to_two_figures_is_taken_once(server, corpus, tmp_path):
    server.answer = lambda _: converse("Number 7 ")
    generate_instructions(config(corpus(3), tmp_path / "out", server))
    assert len(list(iter_instruction_records(tmp_path / "out"))) == 1
    assert Counter(rejected(tmp_path / "out").values()) == {"near_duplicate": 2}


def test_a_teacher_that_sees_gets_the_picture(server, corpus, make_figure, tmp_path):
    figures = corpus(3)
    (figures / "images").mkdir()
    Image.new("RGB", (4, 4)).save(figures / "images/0.png")
    (figures / "images/1.png").write_text("no image")
    generate_instructions(config(figures, tmp_path / "out", server, see_image=True))
    (body,) = server.bodies
    assert body["messages"][-1]["content"][0]["type"] == "image_url"
    assert rejected(tmp_path / "out") == {"PMC1.1/f1": "refused", "PMC2.1/f1": "image_missing"}


def test_a_recording_gives_the_same_conversations_without_a_server(server, corpus, tmp_path):
    figures = corpus(6)
    generate_instructions(config(figures, tmp_path / "a", server))
    teacher = f"recorded:{tmp_path / 'a/ledger.jsonl'}"
    replay = GenerateConfig(
        figures=figures, output_dir=tmp_path / "b", stage=Stage.INSTRUCT, teacher=teacher
    )
    generate_instructions(replay)
    one, other = (list(iter_instruction_records(tmp_path / name)) for name in "ab")
    assert [r.turns for r in one] == [r.turns for r in other]


def test_dry_run_counts_and_sends_nothing(server, corpus, tmp_path):
    prices = tmp_path / "prices.toml"
    prices.write_text('["m"]\ninput_per_million = 1.0\noutput_per_million = 10.0\n')
    figures, out = corpus(30), tmp_path / "out"
    asked = {"prices": prices, "requests_per_minute": 10.0, "dry_run": True}
    summary = generate_instructions(config(figures, out, server, **asked))
    assert not out.exists()
    assert server.bodies == []
    counts = summary.counts
    assert counts["requests"] == 30
    cost = counts["input_tokens"] / 1e6 + counts["output_tokens"] / 1e5
    assert counts["cost_usd"] == pytest.approx(cost, abs=1e-4)
    assert counts["hours"] == 0.05  # thirty at ten a minute
    generate_instructions(config(figures, out, server, limit=12))
    later = generate_instructions(config(figures, out, server, **asked)).counts
    assert (later["requests"], later["already_answered"]) == (18, 12)


def test_max_cost_stops_before_it_is_passed_and_a_second_run_goes_on(server, corpus, tmp_path):
    prices = tmp_path / "prices.toml"
    prices.write_text('["m"]\ninput_per_million = 0\noutput_per_million = 1000.0\n')
    figures, out = corpus(12), tmp_path / "out"
    first = generate_instructions(config(figures, out, server, prices=prices, max_cost_usd=1.2))
    assert not first.complete
    assert first.counts["cost_usd"] <= 1.2
    assert 0 < first.counts["records"] < 12
    assert first.details["unanswered_by_reason"] == {"over_budget": first.counts["unanswered"]}
    second = generate_instructions(config(figures, out, server, prices=prices))
    assert second.complete
    assert second.counts["records"] == 12
    assert server.paid.total() == 12


def test_a_budget_without_a_price_is_refused_before_anything_is_sent(server, corpus, tmp_path):
    with pytest.raises(DataError, match="no price for 'm'"):
        generate_instructions(config(corpus(3), tmp_path / "out", server, max_cost_usd=1.0))
    assert server.bodies == []


def test_a_run_that_ends_early_keeps_its_answers(server, corpus, tmp_path):
    figures, out = corpus(60), tmp_path / "out"
    server.rejects = lambda body: (401, {"message": "no"}) if len(server.bodies) > 20 else None
    with pytest.raises(RemoteError):
        generate_instructions(config(figures, out, server))
    assert not (out / "instructions.jsonl").exists()
    server.rejects = lambda _: None
    assert generate_instructions(config(figures, out, server)).counts["records"] == 60
    assert server.paid.total() == 60


def verdicts(text: str) -> str:
    """A verifier that refuses every second question of figures with even numbers."""
    told = []
    for number in range(1, text.count("Question: ") + 1):
        fits = number == 1 or number_in(text) % 2 == 1
        checks = {"supported": fits, "self_contained": True, "no_leak": True}
        told.append({"number": number, **checks, "score": 0.9, "reason": "not in the text"})
    return json.dumps({"verdicts": told})


def test_a_second_model_judges_every_pair_in_the_same_ledger(server, corpus, tmp_path):
    server.answer = lambda text: verdicts(text) if "Question: " in text else converse(text)
    out = tmp_path / "out"
    settings = config(corpus(6), out, server, verify="judge")
    summary = generate_instructions(settings)
    assert summary.complete
    records = list(iter_instruction_records(out))
    assert sorted(len(r.turns) for r in records) == [2, 2, 2, 4, 4, 4]
    assert all(r.provenance["verified"] == 0.9 for r in records)
    dropped = [v for _, v in iter_jsonl(out / "rejected.jsonl")]
    assert {v["reason"] for v in dropped} == {"verifier_says_no"}
    assert dropped[0]["detail"] == "supported: not in the text"
    assert {body["model"] for body in server.bodies} == {"m", "judge"}
    assert summary.details["usage"]["paid_replies"] == 12
    asked = len(server.bodies)
    generate_instructions(settings)
    assert len(server.bodies) == asked


def test_what_the_verifier_did_not_judge_is_not_kept(server, corpus, tmp_path):
    def answer(text: str) -> str:
        if "Question: " not in text:
            return converse(text)
        return '{"verdicts": []}' if number_in(text) == 3 else verdicts(text)

    server.answer = answer
    summary = generate_instructions(config(corpus(6), tmp_path / "out", server, verify="judge"))
    assert not summary.complete
    assert summary.counts["records"] == 5
    assert summary.details["unanswered_by_reason"] == {"empty_reply": 1}

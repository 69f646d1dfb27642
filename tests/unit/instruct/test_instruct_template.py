from collections import Counter

import pytest

from medllava.instruct.config import ClosedReplies
from medllava.instruct.facts import Fact
from medllava.instruct.template import TemplateTeacher, count_answers
from medllava.instruct.vocabulary import TOPICS
from medllava.records import AnswerType
from medllava.score.yes_no import answer_word


@pytest.fixture
def corpus(make_figure):
    planes = ["axial"] * 40 + ["sagittal"] * 20 + ["coronal"] * 20
    return [
        make_figure(i, caption=f"{plane} T1-weighted MRI of the brain, {i % 9 + 1} lesions")
        for i, plane in enumerate(planes)
    ]


def ask_all(corpus, *, closed_share, num_questions=1, seed=0):
    teacher = TemplateTeacher(count_answers(corpus), closed_share=closed_share, seed=seed)
    return [e for f in corpus for e in teacher.ask(f, num_questions=num_questions)]


def test_yes_and_no_are_balanced_for_each_value(corpus):
    exchanges = [
        e for e in ask_all(corpus, closed_share=1, num_questions=2) if e.category == "plane"
    ]
    counts = Counter()
    for exchange in exchanges:
        value = next(v for v in ("axial", "sagittal", "coronal") if v in exchange.question)
        counts[value, exchange.answer] += 1
    for value in ("axial", "sagittal", "coronal"):
        assert abs(counts[value, "yes"] - counts[value, "no"]) <= 2
    assert len(exchanges) == 80


def test_topic_with_one_value_in_the_data_is_never_asked_as_yes_or_no(corpus):
    exchanges = ask_all(corpus, closed_share=1, num_questions=9)
    closed = {e.category for e in exchanges if e.answer_type is AnswerType.CLOSED}
    assert closed == {"plane", "count"}


def test_closed_answers_are_true(corpus):
    teacher = TemplateTeacher(count_answers(corpus), closed_share=1, seed=3)
    checked = 0
    for figure in corpus:
        for exchange in teacher.ask(figure, num_questions=9):
            if exchange.category == "plane":
                value = next(v for v in ("axial", "sagittal", "coronal") if v in exchange.question)
                assert (value in figure.caption) == (exchange.answer == "yes")
                checked += 1
            elif exchange.category == "count":
                threshold = int(next(w for w in exchange.question.split() if w.isdigit()))
                count = int(figure.caption.split(", ")[1].split()[0])
                assert (count > threshold) == (exchange.answer == "yes")
                checked += 1
    assert checked > 200


def test_share_of_closed_questions_follows_the_setting(corpus):
    assert all(e.answer_type is AnswerType.OPEN for e in ask_all(corpus, closed_share=0))
    for num_questions in (1, 4, 8):
        kinds = Counter(
            e.answer_type for e in ask_all(corpus, closed_share=0.25, num_questions=num_questions)
        )
        assert kinds.total() == 80 * num_questions
        assert abs(kinds[AnswerType.CLOSED] / kinds.total() - 0.25) < 0.1 / num_questions


def test_no_question_about_a_figure_is_asked_twice(corpus):
    teacher = TemplateTeacher(count_answers(corpus), closed_share=0.3, seed=0)
    for figure in corpus[:20]:
        exchanges = teacher.ask(figure, num_questions=100)
        assert len({e.question for e in exchanges}) == len(exchanges) > 10


def test_same_seed_asks_the_same_and_another_seed_does_not(corpus):
    assert ask_all(corpus, closed_share=0.5) == ask_all(corpus, closed_share=0.5)
    assert ask_all(corpus, closed_share=0.5) != ask_all(corpus, closed_share=0.5, seed=1)


def test_part_and_whole_are_not_set_against_each_other(make_figure):
    corpus = [make_figure(1, caption="X-ray of the tibia"), make_figure(2, caption="CT of the leg")]
    exchanges = ask_all(corpus, closed_share=1, num_questions=9)
    assert all(e.answer_type is AnswerType.OPEN for e in exchanges if e.category == "body_part")


def test_topic_with_one_answer_in_the_data_is_left_out_where_others_tell_more(corpus, make_figure):
    categories = {e.category for e in ask_all(corpus, closed_share=0, num_questions=9)}
    assert categories == {"plane", "count"}
    alone = [make_figure(1, caption="CT of the chest"), make_figure(2, caption="CT of the chest")]
    assert {e.category for e in ask_all(alone, closed_share=0, num_questions=9)} == {
        "modality",
        "body_part",
    }


def test_figure_without_facts_is_not_asked_about(make_figure):
    teacher = TemplateTeacher({}, closed_share=0.5, seed=0)
    assert teacher.ask(make_figure(caption="A curve."), num_questions=3) == []


REPLIES = {
    ClosedReplies.WORD: "{answer}",
    ClosedReplies.NAMED: "{Answer}, it is {phrase}.",
    ClosedReplies.REASONED: "It is {phrase}, so {answer}.",
}


@pytest.mark.parametrize("form", ClosedReplies)
def test_reply_names_what_is_seen_and_is_scored_as_its_yes_or_no(corpus, form):
    teacher = TemplateTeacher(count_answers(corpus), closed_share=1, seed=0, closed_replies=form)
    seen = set()
    for figure in corpus:
        for exchange in teacher.ask(figure, num_questions=6):
            assert exchange.answer in ("yes", "no")
            assert answer_word(exchange.reply, asked=exchange.question) == exchange.answer
            seen.add(exchange.answer)
            if exchange.category == "plane":
                plane = figure.caption.split()[0]
                phrase = "an axial slice" if plane == "axial" else f"a {plane} slice"
                assert exchange.reply == REPLIES[form].format(
                    answer=exchange.answer, Answer=exchange.answer.capitalize(), phrase=phrase
                )
    assert seen == {"yes", "no"}


def test_every_topic_states_what_is_seen_in_a_reply_that_is_read_right():
    for topic in TOPICS:
        values = [value.answer for value in topic.values] or ["7"]
        for answer in values:
            fact = Fact(topic=topic, answer=answer, noun="cells")
            assert answer in fact.statement or fact.value.phrase.format(noun="cells") in (
                fact.statement
            )
            for word in ("yes", "no"):
                assert answer_word(f"{word.capitalize()}, {fact.statement}.") == word
                assert answer_word(f"{fact.statement.capitalize()}, so {word}.") == word


def skewed(make_figure):
    """Three quarters brain MRI, sorted: as unlike a balanced set as archives come."""
    captions = ["MRI of the brain"] * 60 + ["MRI of the knee"] * 10
    captions += ["X-ray of the chest"] * 6 + ["X-ray of the tibia"] * 4
    return [make_figure(i, caption=caption) for i, caption in enumerate(captions)]


def test_yes_and_no_are_balanced_in_skewed_data_too(make_figure):
    figures = skewed(make_figure)
    teacher = TemplateTeacher(count_answers(figures), closed_share=1, seed=1)
    by_value, by_kind = Counter(), Counter()
    for figure in figures:
        for exchange in teacher.ask(figure, num_questions=8):
            sign = 1 if exchange.answer == "yes" else -1
            phrases = ("brain", "knee", "chest", "tibia", "MRI", "X-ray")
            by_value[next(v for v in phrases if v in exchange.question)] += sign
            by_kind[exchange.category, figure.caption.split()[0]] += sign
    assert len(by_value) == 6
    assert max(map(abs, by_value.values())) <= 3
    assert max(map(abs, by_kind.values())) <= 2


def test_a_no_names_what_pictures_of_the_same_kind_show(make_figure):
    parts = ["brain", "knee", "liver"] * 12
    figures = [make_figure(i, caption=f"MRI of the {part}") for i, part in enumerate(parts)]
    parts = ["chest", "tibia", "shoulder"] * 12
    figures += [make_figure(i + 99, caption=f"X-ray of the {p}") for i, p in enumerate(parts)]
    teacher = TemplateTeacher(count_answers(figures), closed_share=1, seed=0)
    hard = total = 0
    for figure in figures:
        for exchange in teacher.ask(figure, num_questions=6):
            if exchange.category == "body_part" and exchange.answer == "no":
                total += 1
                among = ("brain", "knee", "liver")
                is_mri = figure.caption.startswith("MRI")
                hard += any(part in exchange.question for part in among) == is_mri
    assert total >= 72
    assert hard >= 0.95 * total  # two easy ones kept the balance

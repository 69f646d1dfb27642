"""Parsing and filters, with the reference's published vectors and the right outcome for each."""

import json

import pytest

from medllava.instruct.conversations import read_reply
from medllava.instruct.duplicates import DuplicateFinder
from medllava.instruct.filters import RULES, filter_pairs, repair
from medllava.instruct.parse import Pair

Q1, Q2 = "What is seen?", "Where is it?"


def reply(a1: str, a2: str = "ok", *, q1: str = Q1) -> str:
    return f"User: {q1}\n\nAssistant: {a1}\n\nUser: {Q2}\n\nAssistant: {a2}"


def kept(text: str) -> list[tuple[str, str]]:
    pairs, _, _ = read_reply(text)
    return [(pair.question, pair.answer) for pair in pairs]


SECOND = (Q2, "ok")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # A first answer that refuses: the second pair stays (and takes the image, see below).
        (reply("Sorry, unclear."), [SECOND]),
        # The prefix goes, the case stays; the reference made this "The mri shows a lesion in t2."
        (
            reply("According to the figure caption, The MRI shows a Lesion in T2."),
            [(Q1, "The MRI shows a Lesion in T2."), SECOND],
        ),
        (reply("Based on the caption, the caption says X."), [SECOND]),
        (reply("A nodule, as mentioned in the description."), [(Q1, "A nodule."), SECOND]),
        (reply("The description is short."), [SECOND]),
        # Kept by the reference, which looked for lower case only.
        (reply("Description is short."), [SECOND]),
        # Kept unchanged by the reference.
        (reply("In this context, the lung is clear."), [(Q1, "The lung is clear."), SECOND]),
        # Kept by the reference, which never looked at questions.
        (reply("A nodule.", q1="What does the caption say?"), [SECOND]),
        # Two answers to one question: dropped.
        (f"User: {Q1}\nAssistant: a\nAssistant: b\n\nUser: {Q2}\nAssistant: ok", [SECOND]),
        # A speaker's name inside a sentence is a word; the reference cut this to "The".
        (reply("The User: field is x"), [(Q1, "The User: field is x"), SECOND]),
    ],
)
def test_published_vectors_have_the_right_outcome(
    text: str, expected: list[tuple[str, str]]
) -> None:
    assert kept(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"User: {Q1}\nAssistant: I cannot see the image.", "all_turns_dropped"),
        ("I would be glad to help!", "no_turns"),
        ("", "no_turns"),
        ("Assistant: an answer without a question", "all_turns_dropped"),
        ('{"turns": []}', "no_turns"),
        ('{"turns": [{"question": 3, "answer": null}]}', "all_turns_dropped"),
        ("[" * 100_000, "no_turns"),
        ('{"question"' * 20_000, "no_turns"),
    ],
)
def test_a_reply_without_a_usable_pair_has_a_reason(text: str, reason: str) -> None:
    assert read_reply(text)[0] == ()
    assert read_reply(text)[2] == reason


PAIRS = [{"question": Q1, "answer": "A nodule."}, {"question": Q2, "answer": "On the left."}]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"turns": PAIRS}),
        f"Here you are:\n```json\n{json.dumps({'turns': PAIRS}, indent=1)}\n```\nEnjoy!",
        json.dumps(PAIRS),
        "<think>User: hm {} </think>" + json.dumps({"conversation": PAIRS}),
        json.dumps({"turns": [*PAIRS, {"question": "Cut off", "answer": "here"}]})[:-14],
        "**User:** What is seen?\n**Assistant:** A nodule.\n**User:** Where is it?\n"
        "**Assistant:** On the left.",
        "Q1: What is seen?\nA1: A nodule.\n\nQ2: Where is it?\nA2: On the left.",
        "Human: What is seen?\nAnswer: A nodule.\nHuman: Where is it?\nAnswer: On the left.",
    ],
)
def test_pairs_are_found_in_every_shape(text: str) -> None:
    assert kept(text) == [(Q1, "A nodule."), (Q2, "On the left.")]


@pytest.mark.parametrize(
    ("rule", "question", "answer"),
    [
        ("markup", Q1, "<image> A nodule."),
        ("refusal", Q1, "I am unable to view the picture."),
        ("refusal", Q1, "The stain is not specified."),
        ("refusal", Q1, "Without the actual image it is hard to say."),
        ("text_source", "What do the authors say about it?", "It is large."),
        ("text_source", Q1, "It is shown in Figure 2 as a mass."),
        ("text_source", Q1, "The provided context suggests a mass."),
        ("text_source", Q1, "The article reports a mass."),
        ("unseen_fact", "How is the 54-year-old patient lying?", "On the back."),
        ("unseen_fact", Q1, "A scan taken 3 months after surgery."),
        ("unseen_fact", Q1, "A difference with p < 0.05."),
        ("unseen_fact", Q1, "It was taken in 2019."),
        ("medical_advice", Q1, "You should see a doctor about it."),
        ("medical_advice", Q1, "Biopsy is recommended."),
        ("too_short", "What?", "A nodule."),
        ("too_short", Q1, "..."),
        ("too_long", Q1, "word " * 221),
    ],
)
def test_each_rule_names_itself(rule: str, question: str, answer: str) -> None:
    filtered = filter_pairs((Pair(question, answer),))
    assert [dropped.rule for dropped in filtered.dropped] == [rule]
    assert rule in RULES


@pytest.mark.parametrize(
    "answer",
    [
        "The text label in the corner reads R.",
        "A well-described rim of enhancement surrounds the 2 cm mass.",
        "The patient is lying on the back.",
        "No, the left lung is clear.",
        "The T2-weighted MRI shows a hyperintense lesion at L4/L5.",
        "The study of this slide at high magnification shows mitoses.",
        "It has access to the pleural space through a drain.",
        "There are 20 nodules in the section.",
    ],
)
def test_what_a_picture_shows_is_kept_as_it_is(answer: str) -> None:
    filtered = filter_pairs((Pair(Q1, answer),))
    assert [pair.answer for pair in filtered.pairs] == [answer]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes, according to the caption, the MRI is normal.", "Yes, the MRI is normal."),
        ("The image caption mentions that CT was used.", "CT was used."),
        ("A mass, as described in the figure legend, lies left.", "A mass, lies left."),
        ("Based on the provided context, pH is low.", "PH is low."),
        ("In the context of the image, it is MRI.", "In the context of the image, it is MRI."),
    ],
)
def test_asides_to_the_text_are_cut_out_and_case_is_kept(answer: str, expected: str) -> None:
    assert repair(answer) == expected


def test_repeated_turns_are_dropped() -> None:
    pairs = (
        Pair("What is seen?", "A large mass in the lung."),
        Pair("what is seen", "Something else."),
        Pair("Anything more?", "A large mass, in the lung!"),
        Pair("Is it large?", "Yes."),
        Pair("Is it round?", "Yes."),
    )
    filtered = filter_pairs(pairs)
    assert [pair.question for pair in filtered.pairs] == [
        "What is seen?",
        "Is it large?",
        "Is it round?",
    ]
    assert {dropped.rule for dropped in filtered.dropped} == {"repeated_turn"}


def test_a_near_duplicate_is_found_and_a_different_text_is_not() -> None:
    words = [f"word{i}" for i in range(120)]
    finder = DuplicateFinder()
    original = Pair("What is seen in it?", " ".join(words))
    assert not finder.is_duplicate((original,))
    changed = [*words]
    changed[60] = "other"
    assert finder.is_duplicate((Pair(original.question, " ".join(changed)),))
    assert not finder.is_duplicate((Pair(original.question, " ".join(words[::-1])),))
    assert not finder.is_duplicate((Pair("Is it?", "Yes."),))
    assert finder.is_duplicate((Pair("is it", "yes"),))


def test_similarity_is_estimated_without_bias() -> None:
    """A hash that keeps the order of its input would give 0 or 1, whatever the overlap."""
    from medllava.instruct.duplicates import _similarity, _sketch

    words = [f"word{i}" for i in range(160)]
    other = [*words[:80], *(f"other{i}" for i in range(80))]
    one, two = (_sketch((Pair("", " ".join(text)),)) for text in (words, other))
    # 77 of 237 sequences are shared: 0.325; five standard deviations of forty draws are 0.37.
    assert 0.1 < _similarity(one, two) < 0.65
    assert len(set(zip(*[iter(one)] * 4, strict=True))) > 30

import json

import pytest

from medllava.instruct.conversations import read_reply
from medllava.instruct.prompts import EXAMPLES, build_request


def test_our_own_examples_pass_our_own_rules():
    for example in EXAMPLES:
        turns = [{"question": q, "answer": a} for q, a in example.turns]
        pairs, dropped, reason = read_reply(json.dumps({"turns": turns}))
        assert dropped == ()
        assert reason is None
        assert [(pair.question, pair.answer) for pair in pairs] == list(example.turns)


def test_examples_cover_the_five_domains():
    captions = " ".join(example.caption.lower() for example in EXAMPLES)
    for word in ("chest radiograph", " ct ", "mri", "histology", "gross"):
        assert word in captions
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize("inline", [True, False])
def test_sentences_of_the_article_are_shown_on_request(make_figure, inline):
    figure = make_figure(in_text_mentions=["As Figure 1 shows,\n it is so."])
    request = build_request(figure, inline_mentions=inline)
    text = request.messages[-1].content
    assert ("- As Figure 1 shows, it is so." in text) is inline
    assert any("Sentences of the article" in m.content for m in request.messages[1:-1]) is inline
    assert text.startswith("Caption: Figure 1. Axial CT of the chest.")


def test_what_a_figure_may_add_to_a_request_is_bounded(make_figure):
    figure = make_figure(caption="x" * 100_000, in_text_mentions=["y" * 2000] * 50)
    text = build_request(figure, inline_mentions=True).messages[-1].content
    assert len(text) < 10_000


def test_requests_share_their_opening(make_figure):
    one, other = (build_request(make_figure(n), inline_mentions=True) for n in (1, 2))
    assert all(a is b for a, b in zip(one.messages[:-1], other.messages[:-1], strict=True))
    roles = [m.role for m in one.messages]
    assert roles == ["system", *["user", "assistant"] * 5, "user"]


def test_a_teacher_that_sees_is_told_so_and_shown_the_picture(make_figure):
    seen = build_request(make_figure(), inline_mentions=False, image="a.png")
    blind = build_request(make_figure(), inline_mentions=False)
    assert seen.messages[-1].images == ("a.png",)
    assert seen.messages[0].content != blind.messages[0].content

"""One loop for chat and evaluation: what ends an answer there ends it here."""

import pytest
from chat_colours import plain

from medllava.chat.session import ChatSession
from medllava.eval.ask.engine import Engine
from medllava.eval.ask.predict import Ask
from medllava.eval.config import DecodingConfig
from medllava.model.sampling import Sampling

pytest_plugins = ["chat_colours"]
COLOURS = ("red", "green", "blue")


def both(model, tmp_path, question, *, max_new_tokens=24):
    """What chat says about each colour, and what evaluation says about all in one batch."""
    asks, said = [], []
    for colour in COLOURS:
        plain(colour).save(tmp_path / f"{colour}.png")
        asks.append(
            Ask(
                id=colour,
                condition="real",
                seed=0,
                image=str(tmp_path / f"{colour}.png"),
                text=question,
            )
        )
        session = ChatSession(model, sampling=Sampling(max_new_tokens=max_new_tokens))
        said.append("".join(session.ask(question, [plain(colour)])).strip())
    engine = Engine(model, DecodingConfig(max_new_tokens=max_new_tokens))
    replies = {
        ask.id: text
        for batch in engine.answer(asks, is_done=lambda _: False)
        for ask, text in batch
    }
    return said, [replies[colour] for colour in COLOURS]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["It is red.", "It is green.", "It is blue."]),
        ({"eos_token_id": None}, ["It is red.", "It is green.", "It is blue."]),
        ({"stop_strings": [" gr", "lue"]}, ["It is red.", "It is", "It is b"]),
    ],
    ids=["as trained", "the end is the tokenizer's", "stop strings"],
)
def test_chat_and_evaluation_end_an_answer_alike(
    colour_model, tmp_path, monkeypatch, settings, expected
):
    for name, value in settings.items():
        monkeypatch.setattr(colour_model.model.generation_config, name, value, raising=False)
    said, scored = both(colour_model, tmp_path, "Which colour?")
    assert said == scored == expected


def test_chat_and_evaluation_punish_repetition_alike(colour_model, tmp_path, monkeypatch):
    plainly, _ = both(colour_model, tmp_path, "Sing.")
    own = colour_model.model.generation_config
    monkeypatch.setattr(own, "repetition_penalty", 5.0, raising=False)
    said, scored = both(colour_model, tmp_path, "Sing.")
    assert said == scored
    assert said[0] != plainly[0]

import itertools

import pytest
import torch
from chat_colours import plain
from PIL import Image

from medllava.chat.config import Sampling
from medllava.chat.session import ChatSession, _choose
from medllava.data.conversation import render_prompt
from medllava.errors import DataError
from medllava.model.loaded import LoadedModel
from medllava.records import Turn

pytest_plugins = ["chat_colours"]
GREEDY = Sampling(max_new_tokens=24)


@pytest.fixture
def encodings(colour_model: LoadedModel):
    """How many images went through the vision encoder, one entry per pass."""
    counts: list[int] = []
    tower = colour_model.model.model.vision_tower
    hook = tower.register_forward_hook(
        lambda _module, args, kwargs, _output: counts.append(
            len(args[0] if args else kwargs["pixel_values"])
        ),
        with_kwargs=True,
    )
    yield counts
    hook.remove()


def say(session: ChatSession, text: str) -> str:
    return "".join(session.ask(text))


def bare_generate(loaded: LoadedModel, turns: list[Turn], images: list[Image.Image]) -> str:
    """What transformers alone answers to the same conversation."""
    prompt = render_prompt(loaded.processor, turns, open_reply=True)
    inputs = loaded.processor(text=prompt, images=images or None, return_tensors="pt")
    end = loaded.processor.tokenizer.eos_token_id
    output = loaded.model.generate(**inputs, max_new_tokens=24, do_sample=False, eos_token_id=end)
    reply = output[0, inputs["input_ids"].shape[1] :]
    return loaded.processor.tokenizer.decode(reply, skip_special_tokens=True).strip()


@pytest.mark.parametrize("colour", ["red", "green", "blue"])
def test_the_second_answer_knows_the_first_and_the_image(colour_model: LoadedModel, colour: str):
    session = ChatSession(colour_model, sampling=GREEDY)
    session.show(plain(colour))
    assert say(session, "Which colour?") == f"It is {colour}."
    assert say(session, "Are you sure?") == f"Yes, {colour}."
    assert [turn.role for turn in session.turns] == ["user", "assistant"] * 2
    assert session.turns[0].content == "<image>\nWhich colour?"


def test_answers_are_those_of_bare_generate(colour_model: LoadedModel):
    session = ChatSession(colour_model, sampling=GREEDY)
    session.show(plain("green"))
    for question in ("Which colour?", "Are you sure?", "Which colour is it not?"):
        say(session, question)
        asked = list(session.turns[:-1])
        assert session.turns[-1].content == bare_generate(colour_model, asked, [plain("green")])


def test_an_image_is_encoded_once_per_conversation(colour_model: LoadedModel, encodings: list[int]):
    session = ChatSession(colour_model, sampling=GREEDY)
    session.show(plain("blue"))
    for question in ("Which colour?", "Are you sure?", "Which colour?"):
        say(session, question)
    assert encodings == [1]
    session.show(plain("red"))
    say(session, "And this one?")
    assert encodings == [1, 1]


def test_a_later_turn_computes_its_own_tokens_only(colour_model: LoadedModel):
    session = ChatSession(colour_model, sampling=GREEDY)
    session.show(plain("red"))
    say(session, "Which colour?")
    first = session.last_answer
    say(session, "Are you sure?")
    second = session.last_answer
    assert first is not None
    assert second is not None
    assert first.cached_tokens == 0
    assert second.cached_tokens == first.input_tokens + first.output_tokens


def test_cached_answers_equal_a_full_run_again(colour_model: LoadedModel):
    cached = ChatSession(colour_model, sampling=GREEDY)
    fresh = ChatSession(colour_model, sampling=GREEDY)
    questions = ["Which colour?", "Are you sure?", "zzz <image> qq", "Are you sure?", "Why?"]
    for session in (cached, fresh):
        session.show(plain("green"))
    for number, question in enumerate(questions):
        if number == 3:
            for session in (cached, fresh):
                session.show(plain("blue"))
        fresh.forget()
        assert say(cached, question) == say(fresh, question)
        assert fresh.last_answer is not None
        assert fresh.last_answer.cached_tokens == 0


def test_logits_after_reuse_equal_those_of_a_full_pass(colour_model: LoadedModel):
    session = ChatSession(colour_model, sampling=GREEDY)
    session.show(plain("red"))
    say(session, "Which colour?")
    asked = [*session.turns, Turn(role="user", content="Are you sure?")]
    ids = session._encode(asked)
    kept = session._keep_common(ids)
    assert kept > 20
    with torch.inference_mode():
        reused = session._forward(ids[kept:], None)
        session.forget()
        full = session._forward(ids, torch.cat(session._pixels))
    # fp32, two layers: measured 5e-6; another image or a lost token moves logits by more than 0.1
    assert torch.allclose(reused, full, atol=1e-4)


def test_ids_are_those_of_the_processor(colour_model: LoadedModel):
    session = ChatSession(colour_model, sampling=GREEDY)
    images = [plain("red"), plain("blue")]
    for image in images:
        session.show(image)
    turns = [Turn(role="user", content="<image>\n<image>\nDifferent?")]
    prompt = render_prompt(colour_model.processor, turns, open_reply=True)
    expected = colour_model.processor(text=prompt, images=images, return_tensors="pt")
    assert session._encode(turns) == expected["input_ids"][0].tolist()
    assert torch.equal(torch.cat(session._pixels), expected["pixel_values"])


def test_a_stopped_answer_stays_as_far_as_it_came(colour_model: LoadedModel):
    session = ChatSession(colour_model, sampling=GREEDY)
    session.show(plain("red"))
    pieces = session.ask("Which colour?")
    said = "".join(itertools.islice(pieces, 3))
    pieces.close()
    assert session.turns[-1].content == said.strip()
    assert session.last_answer is not None
    assert session.last_answer.finish_reason == "interrupted"
    assert say(session, "Which colour?")


class Interrupt(torch.nn.Module):
    """Raises Ctrl-C in the second layer, after the first has grown its cache."""

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.layer, self.calls = layer, 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        if self.calls == 3:
            raise KeyboardInterrupt
        return self.layer(*args, **kwargs)


def test_ctrl_c_inside_a_forward_pass_leaves_a_usable_cache(colour_model: LoadedModel):
    layers = colour_model.model.model.language_model.layers
    original = layers[1]
    session = ChatSession(colour_model, sampling=GREEDY)
    session.show(plain("blue"))
    layers[1] = Interrupt(original)
    try:
        with pytest.raises(KeyboardInterrupt):
            say(session, "Which colour?")
    finally:
        layers[1] = original
    session.clear()
    session.show(plain("blue"))
    assert say(session, "Which colour?") == "It is blue."


def test_an_interrupted_question_without_an_answer_is_forgotten_and_its_image_kept(
    colour_model: LoadedModel,
):
    layers = colour_model.model.model.language_model.layers
    original = layers[1]
    session = ChatSession(colour_model, sampling=GREEDY)
    session.show(plain("blue"))
    layers[1] = Interrupt(original)
    layers[1].calls = 2
    try:
        with pytest.raises(KeyboardInterrupt):
            say(session, "Which colour?")
    finally:
        layers[1] = original
    assert session.turns == ()
    assert say(session, "Which colour?") == "It is blue."


def test_clear_forgets_image_and_turns(colour_model: LoadedModel):
    session = ChatSession(colour_model, sampling=GREEDY)
    session.show(plain("red"))
    say(session, "Which colour?")
    session.clear()
    assert session.turns == ()
    session.show(plain("green"))
    assert say(session, "Which colour?") == "It is green."


def test_two_conversations_with_one_model_do_not_mix(colour_model: LoadedModel):
    one, two = (ChatSession(colour_model, sampling=GREEDY) for _ in range(2))
    one.show(plain("red"))
    two.show(plain("blue"))
    assert say(one, "Which colour?") == "It is red."
    assert say(two, "Which colour?") == "It is blue."
    assert say(one, "Are you sure?") == "Yes, red."
    assert say(two, "Are you sure?") == "Yes, blue."


def test_the_limits_are_kept_and_named(colour_model: LoadedModel):
    session = ChatSession(colour_model, sampling=Sampling(max_new_tokens=3))
    session.show(plain("red"))
    say(session, "Which colour?")
    assert session.last_answer is not None
    assert session.last_answer.finish_reason == "length"
    assert session.last_answer.output_tokens == 3
    with pytest.raises(DataError, match="1,024"):
        say(session, "word " * 1100)
    assert len(session.turns) == 2


def test_sampling_repeats_with_its_seed_and_varies_without(colour_model: LoadedModel):
    def sample(seed: int) -> str:
        hot = Sampling(max_new_tokens=24, temperature=3.0, seed=seed)
        session = ChatSession(colour_model, sampling=hot)
        session.show(plain("red"))
        return say(session, "Which colour?") + say(session, "Are you sure?")

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_sampling_follows_the_probabilities_and_top_p():
    logits = torch.log(torch.tensor([0.1, 0.6, 0.3]))
    generator = torch.Generator().manual_seed(0)

    def shares(**options) -> list[float]:
        sampling = Sampling(**options)
        drawn = [_choose(logits, sampling, generator) for _ in range(4000)]
        return [drawn.count(token) / len(drawn) for token in range(3)]

    assert shares(temperature=0.0) == [0, 1, 0]
    # three standard deviations of 4,000 draws are 0.023
    assert shares(temperature=1.0) == pytest.approx([0.1, 0.6, 0.3], abs=0.025)
    assert shares(temperature=1.0, top_p=0.8) == pytest.approx([0, 2 / 3, 1 / 3], abs=0.025)
    assert shares(temperature=1.0, top_p=0.5) == [0, 1, 0]


def test_characters_of_several_tokens_come_whole(colour_model: LoadedModel):
    hot = Sampling(max_new_tokens=60, temperature=50.0, seed=3)
    session = ChatSession(colour_model, sampling=hot)
    pieces = list(session.ask("Say anything"))
    assert session.last_answer is not None
    assert "".join(pieces).strip() == session.last_answer.text
    assert not any(piece.endswith("\ufffd") for piece in pieces[:-1])


def test_a_model_that_cannot_be_cut_back_computes_again(
    colour_model: LoadedModel, monkeypatch: pytest.MonkeyPatch
):
    session = ChatSession(colour_model, sampling=GREEDY)
    monkeypatch.setattr(session, "_can_crop", False)
    session.forget()
    session.show(plain("red"))
    say(session, "Which colour?")
    session._cached[-1] += 1  # as if the template had rewritten the answer
    assert say(session, "Are you sure?") == "Yes, red."
    assert session.last_answer is not None
    assert session.last_answer.cached_tokens == 0

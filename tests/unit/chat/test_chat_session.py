import itertools

import pytest
import torch
from chat_colours import plain
from PIL import Image

from medllava.chat.choices import find_choices
from medllava.chat.config import Options
from medllava.chat.occlusion import draw_overlay, measure_parts
from medllava.chat.session import ChatSession
from medllava.data.conversation import render_prompt
from medllava.errors import DataError
from medllava.model.decode import Draws, Reply
from medllava.model.loaded import LoadedModel
from medllava.model.sampling import Sampling
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


def say(session: ChatSession, text: str, *images: Image.Image) -> str:
    return "".join(session.ask(text, images))


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
    assert say(session, "Which colour?", plain(colour)) == f"It is {colour}."
    assert say(session, "Are you sure?") == f"Yes, {colour}."
    assert [turn.role for turn in session.turns] == ["user", "assistant"] * 2
    assert session.turns[0].content == "<image>\nWhich colour?"


def test_answers_are_those_of_bare_generate(colour_model: LoadedModel):
    session = ChatSession(colour_model, sampling=GREEDY)
    images = [plain("green")]
    for question in ("Which colour?", "Are you sure?", "Which colour is it not?"):
        say(session, question, *images)
        images = []
        asked = list(session.turns[:-1])
        assert session.turns[-1].content == bare_generate(colour_model, asked, [plain("green")])


def test_an_image_is_encoded_once_per_conversation(colour_model: LoadedModel, encodings: list[int]):
    session = ChatSession(colour_model, sampling=GREEDY)
    say(session, "Which colour?", plain("blue"))
    for question in ("Are you sure?", "Which colour?"):
        say(session, question)
    assert encodings == [1]
    say(session, "And this one?", plain("red"))
    assert encodings == [1, 1]


def test_a_later_turn_computes_its_own_tokens_only(colour_model: LoadedModel):
    session = ChatSession(colour_model, sampling=GREEDY)
    say(session, "Which colour?", plain("red"))
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
    shown = {0: [plain("green")], 3: [plain("blue")]}
    for number, question in enumerate(questions):
        fresh.forget()
        images = shown.get(number, [])
        assert say(cached, question, *images) == say(fresh, question, *images)
        assert fresh.last_answer is not None
        assert fresh.last_answer.cached_tokens == 0


def test_logits_after_reuse_equal_those_of_a_full_pass(colour_model: LoadedModel):
    session = ChatSession(colour_model, sampling=GREEDY)
    say(session, "Which colour?", plain("red"))
    asked = [*session.turns, Turn(role="user", content="Are you sure?")]
    ids = session._encode(asked)
    images = [image for of_turn in session._pixels for image in of_turn]
    kept = session._keep_common(ids, images)
    assert kept > 20
    with torch.inference_mode():
        reused = session._forward(ids[kept:], [])
        session.forget()
        full = session._forward(ids, images)
    # fp32, two layers: measured 5e-6; another image or a lost token moves logits by more than 0.1
    assert torch.allclose(reused, full, atol=1e-4)


def test_ids_are_those_of_the_processor(colour_model: LoadedModel):
    session = ChatSession(colour_model, sampling=GREEDY)
    images = [plain("red"), plain("blue")]
    say(session, "Different?", *images)
    turns = [Turn(role="user", content="<image>\n<image>\nDifferent?")]
    prompt = render_prompt(colour_model.processor, turns, open_reply=True)
    expected = colour_model.processor(text=prompt, images=images, return_tensors="pt")
    assert session._encode(turns) == expected["input_ids"][0].tolist()
    assert torch.equal(torch.cat(session._pixels[0]), expected["pixel_values"])


def test_a_stopped_answer_stays_as_far_as_it_came(colour_model: LoadedModel):
    session = ChatSession(colour_model, sampling=GREEDY)
    pieces = session.ask("Which colour?", [plain("red")])
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
    layers[1] = Interrupt(original)
    try:
        with pytest.raises(KeyboardInterrupt):
            say(session, "Which colour?", plain("blue"))
    finally:
        layers[1] = original
    session.clear()
    assert say(session, "Which colour?", plain("blue")) == "It is blue."


def test_an_interrupted_question_without_an_answer_is_forgotten_with_its_image(
    colour_model: LoadedModel,
):
    layers = colour_model.model.model.language_model.layers
    original = layers[1]
    session = ChatSession(colour_model, sampling=GREEDY)
    layers[1] = Interrupt(original)
    layers[1].calls = 2
    try:
        with pytest.raises(KeyboardInterrupt):
            say(session, "Which colour?", plain("blue"))
    finally:
        layers[1] = original
    assert session.turns == ()
    assert say(session, "Which colour?", plain("blue")) == "It is blue."


def test_clear_forgets_image_and_turns(colour_model: LoadedModel):
    session = ChatSession(colour_model, sampling=GREEDY)
    say(session, "Which colour?", plain("red"))
    session.clear()
    assert session.turns == ()
    assert say(session, "Which colour?", plain("green")) == "It is green."


def test_two_conversations_with_one_model_do_not_mix(colour_model: LoadedModel):
    one, two = (ChatSession(colour_model, sampling=GREEDY) for _ in range(2))
    assert say(one, "Which colour?", plain("red")) == "It is red."
    assert say(two, "Which colour?", plain("blue")) == "It is blue."
    assert say(one, "Are you sure?") == "Yes, red."
    assert say(two, "Are you sure?") == "Yes, blue."


def test_the_limits_are_kept_and_named(colour_model: LoadedModel):
    session = ChatSession(colour_model, sampling=Sampling(max_new_tokens=3))
    say(session, "Which colour?", plain("red"))
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
        return say(session, "Which colour?", plain("red")) + say(session, "Are you sure?")

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_sampling_follows_the_probabilities_and_top_p():
    logits = torch.log(torch.tensor([0.1, 0.6, 0.3]))

    def shares(**options) -> list[float]:
        draws = Draws(Sampling(**options), device=torch.device("cpu"))
        drawn = [draws.choose(logits, []) for _ in range(4000)]
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
    monkeypatch.setattr(session._decoder, "can_crop", False)
    session.forget()
    say(session, "Which colour?", plain("red"))
    session._cached[-1] += 1  # as if the template had rewritten the answer
    assert say(session, "Are you sure?") == "Yes, red."
    assert session.last_answer is not None
    assert session.last_answer.cached_tokens == 0


def test_asking_again_from_an_earlier_turn_shows_the_model_the_new_picture(
    colour_model: LoadedModel,
):
    """Every picture is the same tokens, so what is cached must be told apart by its pixels."""
    session = ChatSession(colour_model, sampling=GREEDY)
    assert say(session, "Which colour?", plain("red")) == "It is red."
    again = session.ask("Which colour?", [plain("blue")], Options(keep=0))
    assert "".join(again) == "It is blue."
    assert say(session, "Are you sure?") == "Yes, blue."
    assert len(session.turns) == 4


def test_a_question_that_fails_leaves_the_turns_it_would_have_replaced(colour_model: LoadedModel):
    session = ChatSession(colour_model, sampling=GREEDY)
    say(session, "Which colour?", plain("red"))
    with pytest.raises(DataError, match="1,024"):
        list(session.ask("word " * 1100, [plain("blue")], Options(keep=0)))
    assert say(session, "Are you sure?") == "Yes, red."


def test_each_turn_keeps_its_pictures_after_the_cache_is_freed(colour_model: LoadedModel):
    session = ChatSession(colour_model, sampling=GREEDY)
    first = say(session, "Which colour?", plain("red"))
    second = say(session, "Which colour?", plain("blue"))
    expected = [plain("red"), plain("blue")]
    say(session, "Are you sure?")
    turns = list(session.turns[:-1])
    session.forget()
    again = "".join(session.ask("Are you sure?", [], Options(keep=4)))
    assert again == bare_generate(colour_model, turns, expected)
    assert first == "It is red."
    assert second


def test_a_restored_conversation_goes_on_as_the_first_would(colour_model: LoadedModel):
    first, second = (ChatSession(colour_model, sampling=GREEDY) for _ in range(2))
    say(first, "Which colour?", plain("green"))
    second.restore(first.turns, [[plain("green")], []])
    assert say(second, "Are you sure?") == say(first, "Are you sure?") == "Yes, green."


@pytest.mark.parametrize(
    ("question", "choices"),
    [
        ("Is there a fracture?", ("yes", "no")),
        ("Look at the lung. Does it show air?", ("yes", "no")),
        ("Which organ?\nA. liver\nB. lung\nC. heart", ("A", "B", "C")),
        ("What is this?", ()),
        ("Isotopes are used?", ()),
        ("Describe it.", ()),
    ],
)
def test_closed_questions_are_told_by_their_form(question: str, choices: tuple[str, ...]):
    assert find_choices(question) == choices


def test_a_closed_answer_comes_with_the_probability_that_the_model_gave_it(
    colour_model: LoadedModel,
):
    session = ChatSession(colour_model, sampling=GREEDY)
    say(session, "Which colour?", plain("red"))
    assert say(session, "Are you sure?") == "Yes, red."
    facts = session.last_answer
    assert facts is not None
    assert facts.choices["yes"] > 0.9 > 0.1 > facts.choices["no"]
    ids = session._encode(session.turns[:-1])
    session.forget()
    images = [image for of_turn in session._pixels for image in of_turn]
    with torch.inference_mode():
        likeliest = torch.softmax(session._forward(ids, images)[0], -1).max()
    assert facts.choices["yes"] == pytest.approx(float(likeliest), abs=0.01)


def test_sampling_follows_the_checkpoint(colour_model: LoadedModel, monkeypatch):
    own = colour_model.model.generation_config
    session = ChatSession(colour_model, sampling=GREEDY)
    whole = say(session, "Which colour?", plain("red"))
    assert whole == "It is red."
    monkeypatch.setattr(own, "stop_strings", [" red"], raising=False)
    session.clear()
    assert say(session, "Which colour?", plain("red")) == "It is"
    assert session.last_answer.finish_reason == "stop"
    mine = Options(sampling=Sampling(max_new_tokens=24, stop=()))
    session.clear()
    assert "".join(session.ask("Which colour?", [plain("red")], mine)) == whole


def test_repetition_penalty_and_top_k_are_those_of_transformers():
    from transformers import RepetitionPenaltyLogitsProcessor, TopKLogitsWarper

    logits, said = torch.randn(50, generator=torch.Generator().manual_seed(1)), [3, 7, 7, 9]
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([said]), logits[None].clone())
    greedy = Draws(Sampling(repetition_penalty=1.7), device=torch.device("cpu"))
    assert greedy.choose(logits, said) == int(expected.argmax())
    kept = TopKLogitsWarper(4)(torch.tensor([said]), logits[None].clone())[0].isfinite()
    how = Sampling(temperature=1.0, top_k=4)
    draws = Draws(how, device=torch.device("cpu"))
    drawn = {draws.choose(logits, said) for _ in range(600)}
    assert drawn == set(kept.nonzero().flatten().tolist())


def test_the_beginning_of_a_stop_string_is_held_back_until_it_is_none():
    texts = ["I", "I t", "I th", "I the", "I thx", "I thx STO", "I thx STOP now"]
    reply = Reply(lambda ids: texts[len(ids) - 1], end_ids=set(), stop=["the end", "STOP"])
    assert [reply.take(0) for _ in texts] == ["I", " ", "", "", "thx", " ", ""]
    assert reply.is_over
    assert reply.text == "I thx "


def test_covering_the_part_that_the_answer_depends_on_is_what_is_found():
    """An answer whose probability is the brightness of one known part of the picture."""
    image = Image.new("RGB", (70, 70), (10, 10, 10))
    image.paste((250, 250, 250), (50, 20, 60, 30))
    parts = measure_parts(lambda shown: shown.getpixel((55, 25))[0] / 255, image)
    assert [len(row) for row in parts] == [7] * 7
    assert parts[2][5] > 0
    assert sum(value > 0 for row in parts for value in row) == 1
    drawn = draw_overlay(image, parts)
    tint = [a - b for a, b in zip(drawn.getpixel((55, 25)), image.getpixel((55, 25)), strict=True)]
    assert tint[2] < -100
    assert drawn.getpixel((5, 65)) == (10, 10, 10)


def test_the_probability_behind_the_overlay_is_the_models_own(colour_model: LoadedModel):
    session = ChatSession(colour_model, sampling=GREEDY)
    assert say(session, "Which colour?", plain("red")) == "It is red."
    asked = session._encode(session.turns[:-1])
    pixels = list(session._pixels[0])
    said = session._tokenizer("It is red.", add_special_tokens=False)["input_ids"]
    likely = session._log_probability([*asked, *said], pixels, len(said))
    blue = list(session._process([plain("blue")]))
    assert likely > session._log_probability([*asked, *said], blue, len(said)) + 2
    parts = session.look([plain("red")])
    assert max(map(max, parts)) >= 0
    with pytest.raises(DataError, match="no such picture"):
        session.look([])

"""Under every template we ship, exactly the replies and their end tokens are learned."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medllava.data.conversation import question_text, render_prompt, render_replies, user_turn
from medllava.data.tokenize import encode_records
from medllava.errors import SetupError
from medllava.model.chat_template import CHATML, HUMAN_ASSISTANT, MISTRAL, VICUNA
from medllava.model.loaded import LoadedModel
from medllava.model.parts import build_model
from medllava.recipe import load_recipe
from medllava.records import IMAGE_TOKEN, AnswerType, InstructionRecord, Question, Stage, Turn

DEBUG = load_recipe("debug").model
SHIPPED = ("llava-med-v1", "llava-med-v1-biomedclip", "qwen3-8b-siglip2")
TEMPLATES = {
    "chatml": CHATML,
    "vicuna": VICUNA,
    "mistral": MISTRAL,
    "human-assistant": HUMAN_ASSISTANT,
    **{name: load_recipe(name).model.language_model.chat_template for name in SHIPPED},
}
IMAGE_TOKENS = 4
WORDS = st.text(
    st.characters(exclude_characters="<", exclude_categories=("Cs", "Cn")), min_size=1, max_size=30
).filter(str.strip)
EXCHANGES = st.lists(st.tuples(WORDS, st.integers(0, 3), WORDS), min_size=1, max_size=4)


@cache
def model(template: str, system_prompt: str = "Be brief.") -> LoadedModel:
    text = replace(
        DEBUG.language_model, chat_template=TEMPLATES[template], system_prompt=system_prompt
    )
    return build_model(replace(DEBUG, language_model=text), seed=0)


def record_of(exchanges: list[tuple[str, int, str]]) -> InstructionRecord:
    turns = []
    for question, num_images, reply in exchanges:
        turns.append(user_turn(question, num_images=num_images))
        turns.append(Turn(role="assistant", content=reply))
    total = sum(num_images for _, num_images, _ in exchanges)
    return InstructionRecord(
        record_id="r",
        images=tuple(f"{i}.png" for i in range(total)),
        turns=tuple(turns),
        stage=Stage.INSTRUCT,
    )


@pytest.mark.parametrize("template", list(TEMPLATES))
@settings(max_examples=40, deadline=None)
@given(exchanges=EXCHANGES)
def test_supervised_runs_are_the_replies_each_with_its_end_token(
    template: str, exchanges: list[tuple[str, int, str]]
) -> None:
    processor = model(template).processor
    tokenizer = processor.tokenizer
    record = record_of(exchanges)
    (encoded,) = encode_records([record], processor, image_tokens=IMAGE_TOKENS, max_length=100_000)
    ids, supervised = encoded.input_ids, encoded.supervised
    edges = np.flatnonzero(np.diff(np.concatenate([[0], supervised.astype(np.int8), [0]])))
    runs = [ids[start:end] for start, end in edges.reshape(-1, 2)]
    assert len(runs) == len(exchanges)
    for run, (_, _, reply) in zip(runs, exchanges, strict=True):
        assert run[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(run[:-1]).strip() == reply.strip()
    assert np.count_nonzero(ids == processor.image_token_id) == len(record.images)
    # What comes before each reply is what evaluation and chat send, token by token.
    for number, (start, _) in enumerate(edges.reshape(-1, 2)):
        prompt = render_prompt(processor, record.turns[: 2 * number + 1], open_reply=True)
        assert tokenizer(prompt, add_special_tokens=False)["input_ids"] == ids[:start].tolist()


@pytest.mark.parametrize("template", list(TEMPLATES))
def test_system_prompt_of_the_recipe_opens_the_conversation_once(template: str) -> None:
    turns = record_of([("Q", 1, "A"), ("R", 0, "B")]).turns
    assert render_prompt(model(template).processor, turns, open_reply=False).count("Be brief.") == 1


def test_template_that_rewrites_earlier_replies_is_refused() -> None:
    forgetful = (
        "{%- for m in messages -%}{%- if m['role'] == 'user' or loop.last -%}"
        "{{ '<|im_start|>' ~ m['content'] ~ '<|im_end|>' }}{%- endif -%}{%- endfor -%}"
    )
    text = replace(DEBUG.language_model, chat_template=forgetful)
    processor = build_model(replace(DEBUG, language_model=text), seed=0).processor
    with pytest.raises(SetupError, match="reply 'first' after its prompt"):
        render_replies(processor, record_of([("Q", 1, "first"), ("R", 0, "second")]).turns)


def test_template_without_an_end_token_is_refused() -> None:
    endless = "{%- for m in messages -%}{{ m['role'] ~ ': ' ~ m['content'] ~ '\n' }}{%- endfor -%}"
    text = replace(DEBUG.language_model, chat_template=endless)
    processor = build_model(replace(DEBUG, language_model=text), seed=0).processor
    with pytest.raises(SetupError, match="before an end token"):
        render_replies(processor, record_of([("Q", 1, "A")]).turns)


def test_placeholders_a_user_typed_claim_no_image() -> None:
    turn = user_turn(f"  What is {IMAGE_TOKEN} this?\n", num_images=2)
    assert turn.content == f"{IMAGE_TOKEN}\n{IMAGE_TOKEN}\nWhat is  this?"
    assert user_turn("Hi", num_images=0).content == "Hi"


def test_question_lists_its_choices_and_says_how_to_answer_only_if_closed() -> None:
    question = Question(
        id="1",
        image=None,
        question=" Which side? ",
        answer="left",
        answer_type=AnswerType.CLOSED,
        choices=("left", "right"),
    )
    asked = question_text(question, closed_prompt="Answer with one word.")
    assert asked == "Which side?\nA. left\nB. right\nAnswer with one word."
    open_question = replace(question, choices=(), answer_type=AnswerType.OPEN)
    assert question_text(open_question, closed_prompt="Answer with one word.") == "Which side?"

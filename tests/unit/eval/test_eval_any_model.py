"""Models of other families, by their own classes and templates; options chosen by likelihood."""

import importlib.util

import pytest
import tiny_families
import torch

from medllava.errors import DataError, SetupError
from medllava.eval.ask.likelihood import option_tokens
from medllava.eval.ask.load_engine import build_engine
from medllava.eval.ask.options import options_of
from medllava.eval.ask.predict import BLANK, Ask
from medllava.eval.compare import compare_predictions
from medllava.eval.config import Backend, ChoiceBy, DecodingConfig, EvalConfig
from medllava.eval.run import evaluate_task
from medllava.images.load import load_image
from medllava.model.any_model import is_any_model, load_any_model
from medllava.records import AnswerType, Question
from medllava.store import iter_jsonl, read_json


@pytest.fixture(scope="module")
def family_folder(tmp_path_factory):
    made = {}

    def folder(family):
        if family not in made:
            made[family] = tiny_families.make(family, tmp_path_factory.mktemp("families") / family)
        return made[family]

    return folder


WITH_VIDEO = {"qwen2_5_vl", "internvl", "llava_onevision"}
HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None


def replies(engine, asks):
    found = [pair for batch in engine.answer(asks, is_done=lambda _: False) for pair in batch]
    return {ask.id: text for ask, text in found}


def alone(loaded, ask):
    """transformers' own way for one conversation, without padding."""
    content = [{"type": "image", "image": load_image(path).convert("RGB")} for path in ask.images]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": ask.text}]}]
    inputs = loaded.processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    with torch.inference_mode():
        output = loaded.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    new = output[0, inputs["input_ids"].shape[1] :]
    return loaded.processor.tokenizer.decode(new, skip_special_tokens=True).strip()


@pytest.mark.parametrize("family", tiny_families.FAMILIES)
def test_a_family_answers_in_batches_as_it_answers_alone(family, family_folder, images):
    if family in WITH_VIDEO and not HAS_TORCHVISION:
        pytest.skip("its processor needs torchvision, which is not installed")
    folder = family_folder(family)
    decoding = DecodingConfig(max_new_tokens=4, batch_size=3)
    engine = build_engine(str(folder), device="cpu", dtype="auto", decoding=decoding)
    asks = [
        Ask(id=str(i), condition="real", seed=0, image=str(images[i % 4]), text="Where?" + "?" * i)
        for i in range(4)
    ]
    found = replies(engine, asks)
    loaded = load_any_model(str(folder), device="cpu")
    assert found == {ask.id: alone(loaded, ask) for ask in asks}
    others = [
        Ask(id="blank", condition="blank", seed=0, image=BLANK, text="Where?"),
        Ask(id="text", condition="text", seed=0, image=None, text="Where?"),
    ]
    assert set(replies(engine, others)) == {"blank", "text"}


def test_two_families_are_compared_on_one_task(family_folder, task_file, tmp_path):
    folders = []
    for family in ("llava_next", "gemma3"):
        config = EvalConfig(
            task=str(task_file),
            checkpoint=str(family_folder(family)),
            output_dir=tmp_path / family,
            decoding=DecodingConfig(max_new_tokens=3),
            draws=50,
            device="cpu",
        )
        summary = evaluate_task(config)
        assert len(read_json(summary.artifacts["report"])["model"]["weights_sha256"]) == 64
        folders.append(tmp_path / family)
    config = EvalConfig(task=str(task_file), output_dir=tmp_path / "both", draws=50)
    report = read_json(compare_predictions(config, *folders).artifacts["comparison"])
    assert report["num_questions"] == 12
    assert "p_holm" in report["metrics"]["accuracy"]


def test_our_own_models_keep_their_engine(tiny_folder):
    engine = build_engine(str(tiny_folder), device="cpu", dtype="auto", decoding=DecodingConfig())
    assert type(engine).__name__ == "Engine"
    assert not is_any_model({"model_type": "llava"})
    assert not is_any_model({"model_type": "llava_mistral"})
    assert not is_any_model({"model_type": "bert"})
    assert is_any_model({"model_type": "qwen2_5_vl"})


@pytest.mark.skipif(HAS_TORCHVISION, reason="torchvision is installed")
def test_a_family_that_needs_torchvision_says_so(tmp_path):
    folder = tiny_families.make("qwen2_5_vl", tmp_path / "qwen", with_video=False)
    with pytest.raises(SetupError, match=r"needs torchvision.*medllava\[families\]"):
        load_any_model(str(folder), device="cpu")


def test_a_model_without_a_template_is_refused_with_what_to_do(family_folder, tmp_path):
    folder = tiny_families.make("llava_next", tmp_path / "plain")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(SetupError, match="no processor with a chat template"):
        load_any_model(str(folder), device="cpu")


def closed(**changes):
    fields = {"id": "q", "image": None, "question": "Q?", "answer_type": AnswerType.CLOSED}
    return Question(**(fields | changes))


def test_options_are_letters_or_yes_and_no():
    assert options_of(closed(answer="b", choices=("a", "b", "c"))) == ("A", "B", "C")
    assert options_of(closed(answer="no")) == ("yes", "no")
    assert options_of(closed(answer="left")) == ()
    assert options_of(closed(answer="a, b", answers=("a", "b"), choices=("a", "b"))) == ()
    assert options_of(closed(answer="yes", answer_type=AnswerType.OPEN)) == ()


def test_tokens_that_several_options_begin_with_tell_nothing():
    class Tokenizer:
        def encode(self, text, *, add_special_tokens):
            assert not add_special_tokens
            return [ord(c) for c in text]

    assert option_tokens(Tokenizer(), ["A", "B"]) == [[65], [66]]
    assert option_tokens(Tokenizer(), ["yes", "no"]) == [[89, 121], [78, 110]]
    with pytest.raises(SetupError, match="begins 'aa' alone"):
        option_tokens(Tokenizer(), ["aa", "ab"])


@pytest.mark.parametrize("family", ["native", "gemma3"])
def test_the_likeliest_option_is_the_reply_to_closed_questions(
    family, family_folder, tiny_folder, task_file, tmp_path
):
    checkpoint = tiny_folder if family == "native" else family_folder(family)
    config = EvalConfig(
        task=str(task_file),
        checkpoint=str(checkpoint),
        output_dir=tmp_path / "out",
        decoding=DecodingConfig(max_new_tokens=3, batch_size=5, choice_by=ChoiceBy.LIKELIHOOD),
        draws=50,
        device="cpu",
    )
    summary = evaluate_task(config)
    report = read_json(summary.artifacts["report"])
    assert report["conditions"]["real"]["unparseable"]["value"] == 0
    assert report["decoding"]["choice_by"] == "likelihood"
    found = {line["id"]: line["text"] for _, line in iter_jsonl(summary.artifacts["predictions"])}
    assert all(text in {"yes", "no"} for key, text in found.items() if key.startswith("yn"))
    assert all(text in set("ABC") for key, text in found.items() if key.startswith("mc"))
    if family == "native":
        assert found["mc0"] == likeliest_letter(tiny_folder, task_file)


def likeliest_letter(folder, task_file):
    """The same from transformers' own forward pass over the whole prompt."""
    from medllava.data.conversation import question_text, render_prompt, user_turn
    from medllava.model.load import load_model

    loaded = load_model(str(folder), device="cpu")
    row = next(line for _, line in iter_jsonl(task_file) if line["id"] == "mc0")
    question = closed(answer=row["answer"], question=row["question"], choices=tuple(row["choices"]))
    turn = user_turn(question_text(question), num_images=1)
    prompt = render_prompt(loaded.processor, [turn], open_reply=True)
    image = load_image(task_file.parent / row["image"])
    inputs = loaded.processor(images=[image], text=prompt, return_tensors="pt")
    with torch.inference_mode():
        logits = loaded.model(**inputs).logits[0, -1]
    scores = [
        torch.logsumexp(logits[ids].float(), dim=0).item()
        for ids in option_tokens(loaded.processor.tokenizer, ["A", "B", "C"])
    ]
    return "ABC"[scores.index(max(scores))]


def test_a_server_gives_no_likelihoods(task_file, tmp_path):
    config = EvalConfig(
        task=str(task_file),
        checkpoint="m",
        output_dir=tmp_path / "out",
        backend=Backend.OPENAI,
        base_url="http://127.0.0.1:9/v1",
        decoding=DecodingConfig(choice_by=ChoiceBy.LIKELIHOOD),
    )
    with pytest.raises(DataError, match="own logits"):
        evaluate_task(config)

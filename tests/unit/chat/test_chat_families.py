"""A conversation with models of other families: transformers' own answers, streamed and stopped."""

import json
import subprocess
import sys

import pytest
import tiny_families
import torch
from PIL import Image

from medllava.chat.any_session import AnySession
from medllava.chat.config import ChatConfig, Options
from medllava.chat.start import open_model
from medllava.errors import DataError, SetupError
from medllava.model.any_model import load_any_model
from medllava.model.sampling import Sampling
from medllava.progress import SilentProgress

SHORT = Sampling(max_new_tokens=6)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {
        family: tiny_families.make(family, tmp_path_factory.mktemp("chat") / family)
        for family in ("gemma3", "smolvlm")
    }


@pytest.fixture(scope="module", params=["gemma3", "smolvlm"])
def loaded(request, folders):
    return load_any_model(str(folders[request.param]), device="cpu")


def plain(colour):
    return Image.new("RGB", (60, 50), colour)


def say(session, text, *images, **options):
    return "".join(session.ask(text, images, Options(**options)))


def alone(loaded, messages):
    """transformers' own way, the whole conversation at once."""
    inputs = loaded.processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    with torch.inference_mode():
        output = loaded.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    new = output[0, inputs["input_ids"].shape[1] :]
    return loaded.processor.tokenizer.decode(new, skip_special_tokens=True)


def message(role, text, *images):
    shown = [{"type": "image", "image": image} for image in images]
    return {"role": role, "content": [*shown, {"type": "text", "text": text}]}


def test_answers_are_those_of_generate_over_several_turns(loaded):
    session = AnySession(loaded, sampling=SHORT)
    first = say(session, "Is it red?", plain("red"))
    talk = [message("user", "Is it red?", plain("red"))]
    assert first == alone(loaded, talk)
    talk.append(message("assistant", session.turns[-1].content))
    talk.append(message("user", "And this?", plain("blue")))
    assert say(session, "And this?", plain("blue")) == alone(loaded, talk)
    facts = session.last_answer
    assert facts.finish_reason in {"stop", "length"}
    assert 0 < facts.output_tokens <= 6
    assert set(facts.choices) == set()
    assert [turn.role for turn in session.turns] == ["user", "assistant"] * 2


def test_a_closed_question_tells_how_sure_the_model_is(loaded):
    session = AnySession(loaded, sampling=SHORT)
    say(session, "Is it red?", plain("red"))
    assert set(session.last_answer.choices) == {"yes", "no"}
    assert all(0 <= p <= 1 for p in session.last_answer.choices.values())


def test_an_answer_that_is_stopped_stays_as_far_as_it_came(loaded):
    session = AnySession(loaded, sampling=Sampling(max_new_tokens=400))
    pieces = session.ask("Describe it.", [plain("green")])
    said = next(pieces)
    pieces.close()
    assert session.last_answer.finish_reason == "interrupted"
    assert session.turns[-1].content == said.strip()
    assert say(session, "Go on.", keep=0)  # it can be asked again


def test_a_place_before_the_end_is_gone_on_from(loaded):
    session = AnySession(loaded, sampling=SHORT)
    first = say(session, "What is it?", plain("red"))
    say(session, "Sure?")
    assert say(session, "What is it?", plain("red"), keep=0) == first
    assert len(session.turns) == 2
    other = AnySession(loaded, sampling=SHORT)
    other.restore(session.turns, [[plain("red")], []])
    assert say(other, "Sure?") == say(session, "Sure?")


def test_the_probability_of_an_answer_is_that_of_its_tokens_as_they_were_chosen(loaded):
    session = AnySession(loaded, sampling=SHORT)
    with pytest.raises(DataError, match="nothing was answered"):
        session.look([plain("red")])
    say(session, "What?", plain("red"))
    inputs = loaded.processor.apply_chat_template(
        [message("user", "What?", plain("red"))],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        made = loaded.model.generate(
            **inputs,
            max_new_tokens=6,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
        )
    new = made.sequences[0, inputs["input_ids"].shape[1] :]
    chosen = zip(made.scores, new, strict=True)
    expected = sum(scores[0].float().log_softmax(-1)[token].item() for scores, token in chosen)
    found = session._log_probability([(plain("red"),)], new.tolist())
    assert found == pytest.approx(expected, abs=1e-3)


def test_parts_of_the_picture_are_measured(folders):
    loaded = load_any_model(str(folders["smolvlm"]), device="cpu")
    session = AnySession(loaded, sampling=SHORT)
    picture = plain("red")
    picture.paste("blue", (0, 0, 30, 25))
    say(session, "What?", picture)
    parts = session.look([picture])
    assert len(parts) == 7
    assert any(value > 0 for row in parts for value in row)


def test_a_conversation_that_is_too_long_is_refused_by_its_tokens(loaded):
    session = AnySession(loaded, sampling=SHORT)
    with pytest.raises(DataError, match="the model reads 2,048"):
        say(session, "word " * 3000)
    assert session.turns == ()


def test_the_command_line_talks_to_another_family(folders, tmp_path):
    image = tmp_path / "a.png"
    plain("red").save(image)
    command = [sys.executable, "-m", "medllava", "chat", str(image), "--json", "--device", "cpu"]
    command += ["--ckpt", str(folders["gemma3"]), "--prompt", "Is it red?", "--max-new-tokens", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)["summary"]
    assert summary["output_tokens"] <= 4
    assert set(summary["choices"]) == {"yes", "no"}


def test_other_families_are_not_quantized_here(folders):
    config = ChatConfig(checkpoint=str(folders["gemma3"]), device="cpu", load="4bit")
    with pytest.raises(SetupError, match="only a LLaVA can be quantized"):
        open_model(config, progress=SilentProgress())

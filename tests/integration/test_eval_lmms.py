"""What lmms-eval's `llava_hf` does with a checkpoint of ours: its loading path and its prompts.

The harness itself is not installed here; its class loads by `AutoConfig`, a table of model types
and `AutoProcessor`, puts `<image>` before the question as plain text, and renders the tokenizer's
own chat template. A checkpoint that says anything else on this way than on ours would score
differently.
"""

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoProcessor, LlavaForConditionalGeneration

from medllava.data.conversation import render_prompt, user_turn
from medllava.eval.ask.load_engine import build_engine
from medllava.eval.ask.predict import Ask
from medllava.eval.config import DecodingConfig
from medllava.model.load import save_model
from medllava.model.parts import build_model
from medllava.recipe import load_recipe

MODELS = {"llava": LlavaForConditionalGeneration}
QUESTION = "Is there an effusion?\nAnswer with yes or no."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ckpt")
    save_model(build_model(load_recipe("debug").model, seed=3), folder)
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    """Model and processor as that class has them after its constructor."""
    kind = AutoConfig.from_pretrained(folder).model_type
    model = MODELS[kind].from_pretrained(
        folder, revision="main", dtype="auto", trust_remote_code=False, attn_implementation=None
    )
    processor = AutoProcessor.from_pretrained(folder, revision="main", trust_remote_code=False)
    processor.tokenizer.padding_side = "left"
    return model, processor


def prompt_of(processor, num_images=1):
    images = " ".join(["<image>"] * num_images)
    messages = [{"role": "user", "content": f"{images}\n{QUESTION}" if images else QUESTION}]
    assert processor.tokenizer.chat_template is not None  # else it takes Vicuna's
    return processor.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )


def test_the_tokenizers_template_says_what_ours_says(loaded):
    _, processor = loaded
    for number in (0, 1):
        ours = render_prompt(processor, [user_turn(QUESTION, num_images=number)], open_reply=True)
        assert prompt_of(processor, number) == ours


def test_messages_with_parts_say_the_same(loaded):
    """Its newer class `llava_hf_chat` hands parts to the processor's template."""
    _, processor = loaded
    image = {"type": "image", "url": Image.new("RGB", (8, 8))}
    parts = [image, {"type": "text", "text": QUESTION}]
    messages = [{"role": "user", "content": parts}]
    found = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert found == prompt_of(processor)


def test_its_replies_are_ours(loaded, folder, tmp_path):
    model, processor = loaded
    path = tmp_path / "a.png"
    Image.effect_noise((40, 30), 90).convert("RGB").save(path)
    inputs = processor(images=[Image.open(path)], text=prompt_of(processor), return_tensors="pt")
    inputs = inputs.to(model.device, model.dtype)
    with torch.inference_mode():
        output = model.generate(
            **inputs,
            do_sample=False,
            temperature=None,
            top_p=None,
            num_beams=1,
            max_new_tokens=6,
            pad_token_id=processor.tokenizer.eos_token_id,
            eos_token_id=processor.tokenizer.eos_token_id,
        )
    new = output[:, inputs["input_ids"].shape[-1] :]
    theirs = processor.tokenizer.batch_decode(new, skip_special_tokens=True)[0]
    engine = build_engine(
        str(folder), device="cpu", dtype="auto", decoding=DecodingConfig(max_new_tokens=6)
    )
    ask = Ask(id="q", condition="real", seed=0, image=str(path), text=QUESTION)
    ((_, ours),) = next(engine.answer([ask], is_done=lambda _: False))
    assert ours == theirs.strip()

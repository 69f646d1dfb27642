"""The processor's pixels and text are what training, evaluation and a bare pipeline share."""

import numpy as np
import pytest
from PIL import Image
from tokenizers.processors import TemplateProcessing

from medllava.errors import SetupError
from medllava.model.chat_template import CHATML, MISTRAL, VICUNA, bake_chat_template
from medllava.model.devices import choose_device, choose_dtype
from medllava.model.load import load_model
from medllava.model.parts import build_model
from medllava.model.processor import build_image_processor, build_processor
from medllava.model.tiny import build_random_vision_encoder, build_tiny_tokenizer
from medllava.recipe import Geometry, LanguageModelConfig, load_recipe

STATISTICS = ((0.5, 0.25, 0.0), (0.5, 0.5, 0.5))
DEBUG = load_recipe("debug").model


def render(template: str, messages: list[dict[str, object]], *, reply: bool = True) -> str:
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply)


@pytest.mark.parametrize("template", [CHATML, VICUNA, MISTRAL])
def test_lists_of_parts_render_like_the_string_they_stand_for(template: str) -> None:
    baked = bake_chat_template(template, system_prompt='Be "brief".')
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Why?"}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "So."}]}
    as_list = [{"role": "user", "content": parts}, answer]
    as_text = [{"role": "user", "content": "<image>\n<image>\nWhy?"}, answer]
    assert render(baked, as_list) == render(baked, as_text)
    assert 'Be "brief".' in render(baked, as_list)


def test_own_system_message_replaces_the_baked_one() -> None:
    baked = bake_chat_template(CHATML, system_prompt="Baked.")
    text = render(baked, [{"role": "system", "content": "Own."}, {"role": "user", "content": "Hi"}])
    assert text.count("system") == 1
    assert "Own." in text
    assert "Baked." not in text


def test_template_opens_with_the_token_its_tokenizer_expects() -> None:
    tokenizer = build_tiny_tokenizer()
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    processor = build_processor(
        tokenizer,
        build_random_vision_encoder(DEBUG.vision_encoder.config, seed=0),
        statistics=STATISTICS,
        vision=DEBUG.vision_encoder,
        language_model=LanguageModelConfig(source="random", chat_template=template),
    )
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert processor.apply_chat_template(messages) == "<|im_start|>Hi"
    out = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    ids = out["input_ids"][0]
    assert list(ids).count(tokenizer.bos_token_id) == 1


def test_padding_uses_the_mean_colour_and_keeps_the_whole_image() -> None:
    processor = build_image_processor(STATISTICS, image_size=20, geometry=Geometry.PAD)
    image = Image.new("RGB", (40, 20), (255, 255, 255))
    pixels = processor([image], return_tensors="np")["pixel_values"][0]
    colour = pixels * 0.5 + np.array([0.5, 0.25, 0.0])[:, None, None]
    assert pixels.shape == (3, 20, 20)
    assert np.allclose(colour[:, 0, 10], [0.5, 0.25, 0.0], atol=1 / 255)
    assert np.allclose(colour[:, 10, :], 1.0, atol=1e-6)


def test_cropping_loses_the_edges_and_stretching_does_not() -> None:
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, :4] = 255
    image = Image.fromarray(pixels)
    cropped, stretched = (
        build_image_processor(STATISTICS, image_size=20, geometry=geometry)(
            [image], return_tensors="np"
        )["pixel_values"][0]
        for geometry in (Geometry.CROP, Geometry.STRETCH)
    )
    assert cropped.shape == stretched.shape == (3, 20, 20)
    assert cropped[0, 10].max() == pytest.approx(-1.0)
    assert stretched[0, 10, 0] == pytest.approx(1.0)


def test_pad_token_is_its_own_when_the_tokenizer_has_none() -> None:
    processor = build_model(DEBUG, seed=0).processor
    tokenizer = processor.tokenizer
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert processor.image_token_id == tokenizer.convert_tokens_to_ids("<image>")


def test_devices_and_types_that_are_not_there_are_set_up_errors() -> None:
    import torch

    assert choose_dtype("auto", device="cpu") is torch.float32
    with pytest.raises(SetupError, match="not one of auto"):
        choose_dtype("float8", device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(SetupError, match="no GPU"):
            choose_device("cuda")


def test_checkpoint_that_is_no_llava_is_refused(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(SetupError, match="'bert' is no LLaVA"):
        load_model(str(folder), device="cpu")
    with pytest.raises(SetupError, match="no such folder"):
        load_model("./nowhere", device="cpu")

"""Small random models of six families of image-text-to-text models, saved as their own classes do.

Each has the processor of its family, a tokenizer of some hundred words and a chat template that
places images as the family's processor expects them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WIDTH = 32
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}


def _tokenizer(*special: str) -> PreTrainedTokenizerFast:
    """Bytes are the words; special tokens come after them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {c: i for i, c in enumerate(alphabet)}
    raw = Tokenizer(models.BPE(vocab=words, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>", bos_token="<bos>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return tokenizer


def _template(image: str) -> str:
    return (
        "{% for m in messages %}{{ m['role'] + ': ' }}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}" + image + "{% else %}{{ c['text'] }}{% endif %}"
        "{% endfor %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )


def _save(model: Any, processor: Any, folder: Path) -> Path:
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def qwen2_5_vl(folder: Path, *, with_video: bool = True) -> Path:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    names = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = _tokenizer(*names)
    ids = dict(zip(names, tokenizer.convert_tokens_to_ids(list(names)), strict=True))
    config = Qwen2_5_VLConfig(
        text_config={**TEXT, "vocab_size": len(tokenizer),
                     "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
        vision_config={"depth": 2, "hidden_size": WIDTH, "intermediate_size": 64, "num_heads": 4,
                       "out_hidden_size": WIDTH, "patch_size": 14, "fullatt_block_indexes": [1]},
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    image_processor = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56)
    if not with_video:  # as from the hub, on a machine that cannot read the video part
        Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
        for part in (tokenizer, image_processor):
            part.save_pretrained(folder)
        kind = {"processor_class": "Qwen2_5_VLProcessor"}
        (folder / "processor_config.json").write_text(json.dumps(kind))
        video = {"video_processor_type": "Qwen2VLVideoProcessor"}
        (folder / "video_preprocessor_config.json").write_text(json.dumps(video))
        return folder
    processor = Qwen2_5_VLProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=_template("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return _save(Qwen2_5_VLForConditionalGeneration(config), processor, folder)


def gemma3(folder: Path) -> Path:
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessor,
        Gemma3Processor,
    )

    names = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
    tokenizer = _tokenizer(*names)
    for field, name in zip(("boi_token", "eoi_token", "image_token"), names, strict=True):
        setattr(tokenizer, field, name)
        setattr(tokenizer, f"{field}_id", tokenizer.convert_tokens_to_ids(name))
        tokenizer.init_kwargs[field] = name
    tokenizer.init_kwargs["extra_special_tokens"] = {
        "boi_token": names[0], "eoi_token": names[1], "image_token": names[2],
    }  # fmt: skip
    config = Gemma3Config(
        text_config={**TEXT, "vocab_size": len(tokenizer), "head_dim": 8},
        vision_config={"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2,
                       "num_attention_heads": 4, "image_size": 56, "patch_size": 14},
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id, eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )  # fmt: skip
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": 56, "width": 56}),
        tokenizer=tokenizer,
        chat_template=_template("<start_of_image>"),
        image_seq_length=4,
    )
    return _save(Gemma3ForConditionalGeneration(config), processor, folder)


def internvl(folder: Path) -> Path:
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    names = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
    tokenizer = _tokenizer(*names)
    tokens = ("start_image_token", "end_image_token", "context_image_token", "video_token")
    for field, name in zip(tokens, names, strict=True):
        setattr(tokenizer, field, name)
        setattr(tokenizer, f"{field}_id", tokenizer.convert_tokens_to_ids(name))
    tokenizer.init_kwargs["extra_special_tokens"] = dict(zip(tokens, names, strict=True))
    config = InternVLConfig(
        text_config={**TEXT, "model_type": "qwen2", "vocab_size": len(tokenizer)},
        vision_config={"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2,
                       "num_attention_heads": 4, "image_size": [56, 56], "patch_size": [14, 14]},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )  # fmt: skip
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size={"height": 56, "width": 56}),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size={"height": 56, "width": 56}),
        image_seq_length=4,
        chat_template=_template("<IMG_CONTEXT>"),
    )
    return _save(InternVLForConditionalGeneration(config), processor, folder)


def smolvlm(folder: Path) -> Path:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
    )

    names = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
    tokenizer = _tokenizer(*names)
    config = Idefics3Config(
        text_config={**TEXT, "model_type": "llama", "vocab_size": len(tokenizer),
                     "pad_token_id": tokenizer.pad_token_id},
        vision_config={"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2,
                       "num_attention_heads": 4, "image_size": 56, "patch_size": 14},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessor(
            size={"longest_edge": 56}, max_image_size={"longest_edge": 56}, do_image_splitting=False
        ),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=_template("<image>"),
    )
    return _save(Idefics3ForConditionalGeneration(config), processor, folder)


CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
GRID = [[56, 112], [112, 56]]


def llava_next(folder: Path) -> Path:
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    tokenizer = _tokenizer("<image>")
    config = LlavaNextConfig(
        text_config={**TEXT, "model_type": "llama", "vocab_size": len(tokenizer)},
        vision_config=CLIP, image_grid_pinpoints=GRID, image_seq_length=16,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": 56}, crop_size=56, image_grid_pinpoints=GRID
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template("<image>"),
    )
    return _save(LlavaNextForConditionalGeneration(config), processor, folder)


def llava_onevision(folder: Path) -> Path:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    tokenizer = _tokenizer("<image>", "<video>")
    config = LlavaOnevisionConfig(
        text_config={**TEXT, "model_type": "qwen2", "vocab_size": len(tokenizer)},
        vision_config={**CLIP, "model_type": "siglip_vision_model"}, image_grid_pinpoints=GRID,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
    )  # fmt: skip
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            size={"height": 56, "width": 56}, image_grid_pinpoints=GRID
        ),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size={"height": 56, "width": 56}),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=_template("<image>"),
    )
    return _save(LlavaOnevisionForConditionalGeneration(config), processor, folder)


FAMILIES: dict[str, Callable[..., Path]] = {
    f.__name__: f for f in (qwen2_5_vl, gemma3, internvl, smolvlm, llava_next, llava_onevision)
}


def make(family: str, folder: Path, **options: bool) -> Path:
    """Save a model of a family with weights of a seed of its own."""
    torch.manual_seed(len(family))
    return FAMILIES[family](folder, **options)

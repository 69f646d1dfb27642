"""The processor saved beside a model: image geometry, token count, chat template.

It is transformers' own `LlavaProcessor`, set so that one `<image>` in the text becomes exactly as
many image tokens as the encoder gives features. The image is padded to a square with the encoder's
mean color (LLaVA-Med v1.5), cropped or stretched, as the recipe says.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

import json

from transformers import LlavaProcessor, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from medllava.errors import SetupError
from medllava.layout import IMAGE_PROCESSOR_FILE
from medllava.model.chat_template import CHATML, bake_chat_template
from medllava.model.open_clip import open_clip_statistics
from medllava.model.tensors import find_file
from medllava.model.vision import num_prefix_tokens
from medllava.recipe import FeatureSelect, Geometry, LanguageModelConfig, VisionEncoderConfig
from medllava.records import IMAGE_TOKEN

ImageStatistics = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and deviation per channel, of values between 0 and 1."""

_CLIP: ImageStatistics = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
_HALF: ImageStatistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_IMAGENET: ImageStatistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_STATISTICS = {
    "clip_vision_model": _CLIP,
    "siglip_vision_model": _HALF,
    "dinov2": _IMAGENET,
    "dinov2_with_registers": _IMAGENET,
    "vit": _HALF,
}


def image_statistics(source: str, *, model_type: str) -> ImageStatistics:
    """Return the channel means and deviations an encoder was trained with.

    Args:
        source: hub id or folder; its `preprocessor_config.json` wins where there is one.
        model_type: transformers' type of the encoder, for its usual values.

    Raises:
        SetupError: neither says.
    """
    file = None if source == "random" else find_file(source, IMAGE_PROCESSOR_FILE)
    values = json.loads(file.read_text(encoding="utf-8")) if file else {}
    if "image_mean" in values and "image_std" in values:
        return tuple(values["image_mean"]), tuple(values["image_std"])
    stated = None if source == "random" else open_clip_statistics(source)
    if stated is not None:
        return stated
    if model_type in _STATISTICS:
        return _STATISTICS[model_type]
    raise SetupError(
        f"no image_mean and image_std for a {model_type!r} encoder: {source}. "
        "Add a preprocessor_config.json with both beside its weights."
    )


def num_image_tokens(processor: LlavaProcessor) -> int:
    """Return how many tokens one image takes in the text, without looking at any image."""
    size = processor.image_processor.crop_size
    patches = (size["height"] // processor.patch_size) * (size["width"] // processor.patch_size)
    dropped = 1 if processor.vision_feature_select_strategy == "default" else 0
    return int(patches + processor.num_additional_image_tokens - dropped)


def build_image_processor(
    statistics: ImageStatistics, *, image_size: int, geometry: Geometry
) -> LlavaImageProcessorPil:
    """Build the image half: square geometry at `image_size` pixels, the encoder's normalization."""
    mean, std = statistics
    side = {"height": image_size, "width": image_size}
    return LlavaImageProcessorPil(
        do_pad=geometry is Geometry.PAD,
        do_resize=True,
        size=side if geometry is Geometry.STRETCH else {"shortest_edge": image_size},
        do_center_crop=geometry is not Geometry.STRETCH,
        crop_size=side,
        image_mean=list(mean),
        image_std=list(std),
    )


def build_processor(
    tokenizer: PreTrainedTokenizerBase,
    encoder: PreTrainedModel,
    *,
    statistics: ImageStatistics,
    vision: VisionEncoderConfig,
    language_model: LanguageModelConfig,
    image_marks: tuple[str, str] | None = None,
) -> LlavaProcessor:
    """Join tokenizer and image processor; adds the `<image>` and, if none, a pad token.

    Args:
        tokenizer: the language model's; changed in place.
        encoder: at its final image size.
        statistics: of the encoder's training images.
        vision: the recipe's part: geometry and choice of features.
        language_model: the recipe's part: system prompt and chat template.
        image_marks: text around each image, of models trained with such marks.

    Raises:
        SetupError: the class token is to be dropped, but the encoder has none.
    """
    prefix = num_prefix_tokens(encoder)
    if vision.feature_select is FeatureSelect.DEFAULT and prefix == 0:
        raise SetupError(
            f"a {encoder.config.model_type!r} encoder has no class token to drop: "
            "model.vision_encoder.feature_select. Set it to full."
        )
    add_special_tokens(tokenizer)
    template = bake_chat_template(
        language_model.chat_template or tokenizer.chat_template or CHATML,
        system_prompt=language_model.system_prompt,
        image_marks=image_marks,
    )
    tokenizer.chat_template = _open_with_bos(template, tokenizer)
    tokenizer.padding_side = "left"
    return LlavaProcessor(
        image_processor=build_image_processor(
            statistics, image_size=encoder.config.image_size, geometry=vision.geometry
        ),
        tokenizer=tokenizer,
        patch_size=encoder.config.patch_size,
        vision_feature_select_strategy=vision.feature_select.value,
        num_additional_image_tokens=prefix,
        chat_template=tokenizer.chat_template,
    )


def _open_with_bos(template: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Make the rendered text complete, so that it is tokenized without special tokens being added.

    Servers and transformers alike tokenize a rendered conversation as it stands when it opens with
    the token that begins a text; some tokenizers expect to add that token themselves.
    """
    tokenizer.chat_template = template
    ids = tokenizer("a")["input_ids"]
    text = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    if ids[0] == tokenizer.bos_token_id and not str(text).startswith(str(tokenizer.bos_token)):
        return "{{- bos_token -}}" + template
    return template


def add_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the tokenizer its `<image>` and, where it has none, a pad token of its own."""
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})

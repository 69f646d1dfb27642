"""A model's processor without its weights, for the plan and for looking at samples.

It is the one that training will save beside the model: from the checkpoint that is named with
`--init`, else made of the tokenizer and the image geometry that the recipe names.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoProcessor, AutoTokenizer, LlavaProcessor

from medllava.layout import PROCESSOR_FILE
from medllava.model.parts import RANDOM
from medllava.model.processor import build_processor, image_statistics
from medllava.model.shapes import part_values
from medllava.model.sources import reading_weights
from medllava.model.tiny import build_tiny_tokenizer, random_part_config
from medllava.recipe import ModelConfig


def read_processor(config: ModelConfig, *, init: str) -> LlavaProcessor:
    """Return the processor a stage will train with.

    Args:
        config: the recipe's parts.
        init: a checkpoint folder whose own processor wins; anything else is not looked at.

    Raises:
        SetupError: the tokenizer is not at hand.
    """
    if (Path(init) / PROCESSOR_FILE).is_file():
        with reading_weights(init, key="--init"):
            saved: LlavaProcessor = AutoProcessor.from_pretrained(init)
            return saved
    values = random_part_config(
        part_values(config.vision_encoder, key="model.vision_encoder"),
        key="model.vision_encoder.config",
    )
    values.image_size = config.vision_encoder.image_size or values.image_size
    with torch.device("meta"):  # sizes only
        encoder: Any = AutoModel.from_config(values)
    tokenizer = _read_tokenizer(config)
    source = config.vision_encoder.source
    return build_processor(
        tokenizer,
        encoder,
        statistics=image_statistics(source, model_type=encoder.config.model_type),
        vision=config.vision_encoder,
        language_model=config.language_model,
    )


def _read_tokenizer(config: ModelConfig) -> Any:  # noqa: ANN401 - any tokenizer
    part = config.language_model
    where = part.tokenizer or part.source
    if where == RANDOM:
        return build_tiny_tokenizer(vocab_size=int(part.config.get("vocab_size", 0)) or 512)
    with reading_weights(where, key="model.language_model.tokenizer"):
        return AutoTokenizer.from_pretrained(where)

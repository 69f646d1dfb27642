"""Random parts, so that the whole route runs without weights, hub or network.

A recipe whose `source` is `random` describes a part by transformers' configuration values. The
tokenizer is a small byte-level BPE trained here on a few sentences of our own: every text encodes.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from medllava.errors import RecipeError
from medllava.model.chat_template import CHATML

_SENTENCES = (
    "The chest radiograph shows clear lungs and a heart of normal size.",
    "What kind of image is this? This is an axial slice of the brain.",
    "Is there a pleural effusion on the right side? No, there is none.",
    "The section is stained with hematoxylin and eosin and shows a gland.",
    "Which organ is visible? The liver, in the upper abdomen, without contrast.",
    "Describe the following figure. The arrow marks a lesion in the left kidney.",
    "How many nuclei are seen? Twelve nuclei are seen in the field of view.",
)
_SPECIAL = ("<|im_start|>", "<|im_end|>", "<pad>")


def random_part_config(values: dict[str, Any], *, key: str) -> Any:  # noqa: ANN401 - any part's configuration
    """Turn a recipe's `config` table into a transformers configuration.

    Args:
        values: configuration values with `model_type`.
        key: dotted path of the table, for the error.

    Raises:
        RecipeError: there is no `model_type`, or transformers refuses the values.
    """
    given = dict(values)
    model_type = given.pop("model_type", None)
    if not isinstance(model_type, str):
        raise RecipeError(f"{key}.model_type is missing. Name a transformers model, such as llama.")
    try:
        return AutoConfig.for_model(model_type, **given)
    except Exception as error:  # noqa: BLE001 - transformers raises many kinds for a bad value
        raise RecipeError(f"{key}: transformers refuses these values ({error}).") from None


def build_random_language_model(values: dict[str, Any], *, seed: int) -> PreTrainedModel:
    """Build a causal language model with random weights."""
    config = random_part_config(values, key="model.language_model.config")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _from_config(AutoModelForCausalLM, config, key="model.language_model.config")


def build_random_vision_encoder(values: dict[str, Any], *, seed: int) -> PreTrainedModel:
    """Build a vision encoder with random weights."""
    config = random_part_config(values, key="model.vision_encoder.config")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _from_config(AutoModel, config, key="model.vision_encoder.config")


def _from_config(auto: Any, config: Any, *, key: str) -> PreTrainedModel:  # noqa: ANN401 - transformers' own
    try:
        model: PreTrainedModel = auto.from_config(config, dtype=torch.float32)
    except Exception as error:  # noqa: BLE001 - any, for sizes that do not fit together
        raise RecipeError(f"{key}: no model can be built of these values ({error}).") from None
    return model


def build_tiny_tokenizer(*, vocab_size: int = 512) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of at most `vocab_size` entries on the sentences of this file."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_SPECIAL[0],
        eos_token=_SPECIAL[1],
        pad_token=_SPECIAL[2],
        chat_template=CHATML,
    )

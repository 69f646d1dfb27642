"""A checkpoint to its vision encoder, where it has one of ours; torch only if it does."""

from medllava.eval.config import Backend, EvalConfig
from medllava.eval.encoder_twins import Encode


def load_encoder(config: EvalConfig) -> Encode | None:
    """Load the vision encoder of the model that was asked; None for others' models and answers.

    Raises:
        SetupError: the model cannot be loaded.
    """
    if config.checkpoint is None or config.backend is not Backend.TRANSFORMERS:
        return None
    from medllava.eval.ask.encode_images import ImageEncoder  # noqa: PLC0415 - torch
    from medllava.model.any_model import is_any_model  # noqa: PLC0415 - torch
    from medllava.model.import_llava_med import split_delta  # noqa: PLC0415 - torch
    from medllava.model.load import load_model  # noqa: PLC0415 - torch
    from medllava.model.sources import read_config  # noqa: PLC0415 - torch

    name, base = split_delta(config.checkpoint)
    if base is None and is_any_model(read_config(name)):
        return None
    return ImageEncoder(load_model(config.checkpoint, device=config.device, dtype=config.dtype))

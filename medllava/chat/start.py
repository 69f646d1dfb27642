"""From a `ChatConfig` to conversations: a model in memory or a server, decided once.

The memory that the weights need is compared with what is free before anything is loaded.
"""

from collections.abc import Callable
from typing import Any

from medllava.chat.config import ChatConfig
from medllava.chat.conversation import Conversation
from medllava.errors import SetupError
from medllava.progress import Progress

ConversationMaker = Callable[[], Conversation]
"""Begins another, empty conversation with the same model."""

_MAX_RETRIES = 2
"""Of a question to a server: somebody is waiting for the answer."""


def open_model(config: ChatConfig, *, progress: Progress) -> ConversationMaker:
    """Load the model, or find the server, that answers.

    Raises:
        SetupError: the model is not there, or would not fit in memory; or a key is missing.
    """
    if config.base_url is not None:
        return _reach_server(config)
    from medllava.chat.memory import place_model  # noqa: PLC0415 - torch
    from medllava.chat.session import ChatSession  # noqa: PLC0415 - torch
    from medllava.model.load import load_model  # noqa: PLC0415 - torch

    placement = place_model(config)
    progress.start(f"loading {config.checkpoint}")
    device = "cpu" if placement.is_spread else placement.device
    dtype = "bf16" if placement.is_spread and config.dtype == "auto" else config.dtype
    if _is_other_family(config.checkpoint):
        return _open_other_family(config, device=device, dtype=dtype, spread=placement.is_spread)
    loaded = load_model(config.checkpoint, device=device, dtype=dtype, quantize=config.load)
    if placement.is_spread:
        _spread(loaded.model)
    for note in loaded.notes:
        progress.note(note)
    return lambda: ChatSession(loaded, sampling=config.sampling)


def _is_other_family(checkpoint: str) -> bool:
    """Tell a model that transformers loads by a class of its own from a LLaVA."""
    from medllava.model.any_model import is_any_model  # noqa: PLC0415 - torch
    from medllava.model.import_llava_med import split_delta  # noqa: PLC0415 - torch
    from medllava.model.sources import read_config  # noqa: PLC0415 - torch

    name, base = split_delta(checkpoint)
    return base is None and is_any_model(read_config(name))


def _open_other_family(
    config: ChatConfig, *, device: str, dtype: str, spread: bool
) -> ConversationMaker:
    from medllava.chat.any_session import AnySession  # noqa: PLC0415 - torch
    from medllava.model.any_model import load_any_model  # noqa: PLC0415 - torch

    if config.load is not None:
        raise SetupError(
            f"only a LLaVA can be quantized while it loads: {config.checkpoint}. Leave --load out, "
            "or serve the model elsewhere and name it with --base-url."
        )
    loaded = load_any_model(config.checkpoint, device=device, dtype=dtype)
    if spread:
        _spread(loaded.model)
    return lambda: AnySession(loaded, sampling=config.sampling)


def _reach_server(config: ChatConfig) -> ConversationMaker:
    from medllava.chat.remote import RemoteConversation  # noqa: PLC0415 - a model here needs none
    from medllava.llm.client import OpenAIModel  # noqa: PLC0415

    model = OpenAIModel(config.checkpoint, base_url=config.base_url, max_retries=_MAX_RETRIES)
    return lambda: RemoteConversation(model, config.sampling)


def _spread(model: Any) -> None:  # noqa: ANN401 - any transformers model
    """Distribute the layers over all GPUs, as transformers' `device_map="auto"` does."""
    from accelerate import (  # type: ignore[import-untyped]  # noqa: PLC0415 - several GPUs
        dispatch_model,
        infer_auto_device_map,
    )
    from accelerate.utils import (  # type: ignore[import-untyped]  # noqa: PLC0415
        get_balanced_memory,
    )

    whole = model._no_split_modules  # noqa: SLF001 - accelerate is told so by transformers, too
    memory = get_balanced_memory(model, no_split_module_classes=whole)
    dispatch_model(
        model, infer_auto_device_map(model, max_memory=memory, no_split_module_classes=whole)
    )

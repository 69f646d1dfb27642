"""From a `ChatConfig` to conversations: a model in memory or a server, decided once.

The memory that the weights need is compared with what is free before anything is loaded.
"""

import atexit
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medllava.chat.config import ChatConfig
from medllava.chat.conversation import Conversation
from medllava.errors import SetupError
from medllava.progress import Progress
from medllava.provenance import is_gguf

if TYPE_CHECKING:
    from PIL.Image import Image

ConversationMaker = Callable[[], Conversation]
"""Begins another, empty conversation with the same model."""

_MAX_RETRIES = 2
"""Of a question to a server: somebody is waiting for the answer."""


def open_model(config: ChatConfig, *, progress: Progress) -> ConversationMaker:
    """Load the model, or find the server, that answers.

    Raises:
        SetupError: the model is not there, or would not fit in memory; or a key is missing.
        DataError: there is no such GGUF file.
    """
    if config.base_url is not None:
        return _reach_server(config, config.base_url)
    if is_gguf(config.checkpoint):
        progress.start(f"loading {config.checkpoint}")
        return _serve_gguf(config)
    from medllava.chat.memory import place_model  # noqa: PLC0415 - torch
    from medllava.chat.session import ChatSession  # noqa: PLC0415 - torch
    from medllava.model.any_model import is_other_family  # noqa: PLC0415 - torch
    from medllava.model.load import load_model  # noqa: PLC0415 - torch

    placement = place_model(config)
    progress.start(f"loading {config.checkpoint}")
    device = "cpu" if placement.is_spread else placement.device
    dtype = "bf16" if placement.is_spread and config.dtype == "auto" else config.dtype
    if is_other_family(config.checkpoint):
        return _open_other_family(config, device=device, dtype=dtype, spread=placement.is_spread)
    loaded = load_model(config.checkpoint, device=device, dtype=dtype, quantize=config.load)
    if placement.is_spread:
        _spread(loaded.model)
    for note in loaded.notes:
        progress.note(note)
    return lambda: ChatSession(loaded, sampling=config.sampling)


def _serve_gguf(config: ChatConfig) -> ConversationMaker:
    """Start llama.cpp's server for a GGUF file; it ends with this process."""
    from medllava.data.pixels import saved_reader  # noqa: PLC0415 - torch
    from medllava.llm.llama_server import serve_gguf  # noqa: PLC0415 - an extra

    model = Path(config.checkpoint)
    reader = saved_reader(model.parent)
    servers = ExitStack()
    atexit.register(servers.close)
    address = servers.enter_context(serve_gguf(model))
    # The encoder sees what it saw in training; llama.cpp would resize pictures in its own way.
    return _reach_server(config, address, **({} if reader is None else {"show": reader.show}))


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


def _reach_server(
    config: ChatConfig, address: str, **pictures: "Callable[[Image], Image]"
) -> ConversationMaker:
    from medllava.chat.remote import RemoteConversation  # noqa: PLC0415 - a model here needs none
    from medllava.llm.client import OpenAIModel  # noqa: PLC0415

    model = OpenAIModel(config.checkpoint, base_url=address, max_retries=_MAX_RETRIES)
    return lambda: RemoteConversation(model, config.sampling, **pictures)


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

"""Who answers: this process, one process per GPU, or a server.

An `EvalConfig` enters, an `Answerer` leaves. Torch is imported only where a model is loaded here.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medllava.errors import DataError, SetupError
from medllava.eval.ask.predict import Answerer, Ask, Batch
from medllava.eval.config import VLLM_ADDRESS, Backend, ChoiceBy, EvalConfig
from medllava.provenance import gguf_files

if TYPE_CHECKING:
    from PIL.Image import Image

_IN_FLIGHT = 2
"""Requests to a server that was started here: one is answered, one is ready."""


def build_answerer(config: EvalConfig) -> Answerer:
    """Return what answers the asks of an evaluation.

    Raises:
        SetupError: the model cannot be loaded, or there are not so many GPUs.
    """
    has_logits = config.backend is Backend.TRANSFORMERS
    if config.decoding.choice_by is ChoiceBy.LIKELIHOOD and not has_logits:
        raise DataError(
            "--choice-by likelihood needs the model's own logits, which a server does not give. "
            "Use --backend transformers."
        )
    if config.backend is Backend.LLAMA_CPP:
        return _GgufAnswerer(config)
    if config.backend is Backend.VLLM:
        return _VllmAnswerer(config)
    if config.backend is not Backend.TRANSFORMERS:
        return _reach_server(config)
    from medllava.eval.ask.workers import Worker, WorkerPool  # noqa: PLC0415
    from medllava.model.devices import choose_device  # noqa: PLC0415 - torch, only with a model

    checkpoint = config.checkpoint or ""
    if config.gpus == 1:
        from medllava.eval.ask.load_engine import build_engine  # noqa: PLC0415 - as above

        return build_engine(
            checkpoint, device=config.device, dtype=config.dtype, decoding=config.decoding
        )
    device = choose_device(config.device)
    num_threads = 0
    if device == "cpu":
        num_threads = max(1, (os.cpu_count() or 1) // config.gpus)
        devices = ["cpu"] * config.gpus
    else:
        devices = _gpu_names(device, config.gpus)
    return WorkerPool(
        [
            Worker(
                checkpoint=checkpoint,
                device=name,
                dtype=config.dtype,
                decoding=config.decoding,
                num_threads=num_threads,
            )
            for name in devices
        ]
    )


class _GgufAnswerer:
    """An `Answerer` that starts llama.cpp's server when there is something to ask."""

    def __init__(self, config: EvalConfig) -> None:
        self._config = config

    def answer(self, asks: Sequence[Ask], *, is_done: Callable[[Ask], bool]) -> Iterator[Batch]:
        """Yield replies in order; see `predict.Answerer`.

        Pictures are made square by the processor saved beside the file, where there is one, so that
        the encoder sees what it saw in training; llama.cpp would resize them in its own way.

        Raises:
            DataError: the file is not there, or an image cannot be read.
            SetupError: llama.cpp is missing, or cannot load the files.
            RemoteError: the server gave no answer after retries.
        """
        from medllava.data.pixels import saved_reader  # noqa: PLC0415 - torch
        from medllava.llm.llama_server import serve_gguf  # noqa: PLC0415 - an extra

        if all(map(is_done, asks)):
            return
        model = Path(self._config.checkpoint or "")
        reader = saved_reader(model.parent)
        decoding = self._config.decoding
        # One slot answers; a long queue before it would only run into time-outs.
        decoding = replace(decoding, batch_size=decoding.batch_size or _IN_FLIGHT)
        with serve_gguf(model) as address:
            server = _reach_server(
                replace(
                    self._config, base_url=address, decoding=decoding, served_model=_name(model)
                ),
                **({} if reader is None else {"show": reader.show}),
            )
            yield from server.answer(asks, is_done=is_done)


class _VllmAnswerer:
    """An `Answerer` by vLLM: the server at its usual address, else one that lives while it asks."""

    def __init__(self, config: EvalConfig) -> None:
        self._config = config

    def answer(self, asks: Sequence[Ask], *, is_done: Callable[[Ask], bool]) -> Iterator[Batch]:
        """Yield replies in order; see `predict.Answerer`.

        Raises:
            SetupError: no server is there, and vLLM is not installed or does not start.
        """
        from medllava.llm.vllm_server import is_served, vllm_server  # noqa: PLC0415 - seldom

        if all(map(is_done, asks)):
            return
        config = self._config
        if is_served(config.base_url or VLLM_ADDRESS):
            yield from _reach_server(config).answer(asks, is_done=is_done)
            return
        log = config.output_dir / "answers" / "vllm.log"
        with vllm_server(config.checkpoint or "", log=log, gpus=config.gpus) as address:
            server = _reach_server(replace(config, base_url=address))
            yield from server.answer(asks, is_done=is_done)


def _name(model: Path) -> str:
    """Name a GGUF file by what it holds now: old replies are not of a file written anew."""
    stats = [(path.name, path.stat()) for path in gguf_files(model)]
    return " ".join(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats)


def _reach_server(config: EvalConfig, **pictures: "Callable[[Image], Image]") -> Answerer:
    from medllava.eval.ask.server import ServerAnswerer  # noqa: PLC0415 - an HTTP client

    ledger = config.output_dir / "answers" / "server.jsonl"
    if not config.resume:
        ledger.unlink(missing_ok=True)
    return ServerAnswerer(
        model=config.served_model or config.checkpoint or "",
        base_url=config.base_url,
        decoding=config.decoding,
        ledger=ledger,
        **pictures,
    )


def _gpu_names(device: str, number: int) -> list[str]:
    """Return `number` GPUs, from the one that was named on."""
    import torch  # noqa: PLC0415 - as above

    first = torch.device(device).index or 0
    found = torch.cuda.device_count()
    if first + number > found:
        raise SetupError(f"--gpus {number} from {device} on: {found} are here. Use fewer.")
    return [f"cuda:{first + i}" for i in range(number)]

"""Who answers: this process, one process per GPU, or a server.

An `EvalConfig` enters, an `Answerer` leaves. Torch is imported only where a model is loaded here.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from medllava.errors import DataError, SetupError
from medllava.eval.ask.predict import Answerer, Ask, Batch
from medllava.eval.config import VLLM_ADDRESS, Backend, ChoiceBy, EvalConfig


def build_answerer(config: EvalConfig) -> Answerer:
    """Return what answers the asks of an evaluation.

    Raises:
        SetupError: the model cannot be loaded, or there are not so many GPUs.
    """
    if config.backend is not Backend.TRANSFORMERS:
        if config.decoding.choice_by is ChoiceBy.LIKELIHOOD:
            raise DataError(
                "--choice-by likelihood needs the model's own logits, which a server does not "
                "give. Use --backend transformers."
            )
        if not config.resume:
            _ledger(config).unlink(missing_ok=True)
        if config.backend is Backend.VLLM:
            return OwnVllm(config)
        return _server(config, config.base_url)
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


class OwnVllm:
    """An `Answerer` by vLLM: the server at its usual address, else one that lives while it asks."""

    def __init__(self, config: EvalConfig) -> None:
        """Remember what to serve; nothing is started before there is something to ask."""
        self._config = config

    def answer(self, asks: Sequence[Ask], *, is_done: Callable[[Ask], bool]) -> Iterator[Batch]:
        """Yield replies; see `predict.Answerer`.

        Raises:
            SetupError: no server is there, and vLLM is not installed or does not start.
        """
        from medllava.llm.vllm_server import is_served, vllm_server  # noqa: PLC0415 - as above

        if all(map(is_done, asks)):
            return
        usual = self._config.base_url or VLLM_ADDRESS
        if is_served(usual):
            yield from _server(self._config, usual).answer(asks, is_done=is_done)
            return
        checkpoint = self._config.checkpoint or ""
        log = self._config.output_dir / "answers" / "vllm.log"
        with vllm_server(checkpoint, log=log, gpus=self._config.gpus) as base_url:
            yield from _server(self._config, base_url).answer(asks, is_done=is_done)


def _server(config: EvalConfig, base_url: str | None) -> Answerer:
    from medllava.eval.ask.server import ServerAnswerer  # noqa: PLC0415 - an HTTP client

    return ServerAnswerer(
        model=config.served_model or config.checkpoint or "",
        base_url=base_url,
        decoding=config.decoding,
        ledger=_ledger(config),
    )


def _ledger(config: EvalConfig) -> Path:
    return config.output_dir / "answers" / "server.jsonl"


def _gpu_names(device: str, number: int) -> list[str]:
    """Return `number` GPUs, from the one that was named on."""
    import torch  # noqa: PLC0415 - as above

    first = torch.device(device).index or 0
    found = torch.cuda.device_count()
    if first + number > found:
        raise SetupError(f"--gpus {number} from {device} on: {found} are here. Use fewer.")
    return [f"cuda:{first + i}" for i in range(number)]

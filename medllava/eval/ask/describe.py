"""Who answers and how, as a report says it: the same words for benchmarks and judged answers."""

from collections.abc import Sequence
from typing import Any

from medllava.eval.config import Backend, EvalConfig
from medllava.provenance import describe_model
from medllava.records import DecodingRecord
from medllava.store import sha256_of


def describe_source(config: EvalConfig) -> dict[str, Any]:
    """Return the fields of a `ModelRecord`: the model, or the file of answers made elsewhere.

    Raises:
        DataError: the weights, or what lies beside them, cannot be read.
    """
    if config.predictions is not None:
        hashed = sha256_of(config.predictions)
        return {"source": str(config.predictions), "predictions_sha256": hashed}
    model = describe_model(config.checkpoint or "")
    if config.backend not in (Backend.TRANSFORMERS, Backend.LLAMA_CPP):
        model |= {"server": config.base_url, "served_model": config.served_model}
    return model


def describe_decoding(config: EvalConfig, seeds: Sequence[int]) -> DecodingRecord | None:
    """Return how `seeds` were decoded; None where the answers were made elsewhere."""
    if config.predictions is not None:
        return None
    return DecodingRecord(
        max_new_tokens=config.decoding.max_new_tokens,
        temperature=config.decoding.temperature,
        seeds=tuple(seeds),
        backend=config.backend.value,
        dtype=config.dtype,
        choice_by=config.decoding.choice_by.value,
    )

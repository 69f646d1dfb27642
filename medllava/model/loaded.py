"""What every consumer of a model holds: weights, processor, and where they came from."""

from dataclasses import dataclass

from transformers import LlavaForConditionalGeneration, LlavaProcessor


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A native LLaVA and the processor that was saved, or will be saved, beside it."""

    model: LlavaForConditionalGeneration
    processor: LlavaProcessor
    source: str
    """Folder or hub id it was loaded from, or the two parts it was built from."""
    notes: tuple[str, ...] = ()
    """What a user should know about the import, such as differences from the stock encoder."""

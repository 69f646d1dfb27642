"""From a checkpoint folder to files for other engines.

OUT/
model-q8_0.gguf    language model, tokenizer, chat template
mmproj-f16.gguf    vision encoder and projector (f32 beside model-f32)
Modelfile          for `ollama create`
preprocessor_config.json  how pictures are made square before they are sent
adapter/           what an adapter learned, as peft reads it
fp8/               a checkpoint with 8-bit floats
README.md          how to run them, and how they compare with transformers
"""

from collections.abc import Sequence
from pathlib import Path

from medllava.hub.export.adapter import export_adapter, find_adapter
from medllava.hub.export.formats import ADAPTER, FP8, gguf_kind
from medllava.hub.export.parity import Reference, make_prompts
from medllava.hub.export.results import Export, render_readme
from medllava.layout import CARD_FILE
from medllava.model.load import load_model
from medllava.progress import Progress

NUM_PROMPTS = 12
_MAX_TOKENS = 24


def export_checkpoint(
    folder: Path, out: Path, formats: Sequence[str], *, progress: Progress
) -> list[Export]:
    """Write a checkpoint in other formats and compare each with transformers.

    Args:
        folder: of the checkpoint; loaded in float32.
        out: made if absent; files of an earlier export are replaced.
        formats: as `parse_formats` gives them.
        progress: told of every phase.

    Raises:
        SetupError: the engine has no such encoder, language model or tokenizer.
        DataError: the files do not answer as transformers does, so they were removed; or there is
            no adapter.
    """
    kinds = [kind for name in formats if (kind := gguf_kind(name))]
    if ADAPTER in formats:
        find_adapter(folder)
    out.mkdir(parents=True, exist_ok=True)
    progress.start("load model")
    loaded = load_model(str(folder), dtype="fp32", device="cpu")
    if kinds:
        from medllava.hub.export.gguf_step import export_gguf  # noqa: PLC0415 - needs an extra
        from medllava.hub.export.gguf_vision import check_vision  # noqa: PLC0415 - as above

        check_vision(loaded.model.config)
    progress.start("ask transformers")
    prompts = make_prompts(loaded.processor, count=NUM_PROMPTS)
    reference = Reference(loaded, prompts, max_tokens=_MAX_TOKENS)
    exports = export_gguf(loaded, out, kinds, reference, progress=progress) if kinds else []
    if ADAPTER in formats:
        exports.append(export_adapter(folder, out, reference, progress=progress))
    if FP8 in formats:
        from medllava.hub.export.fp8 import export_fp8  # noqa: PLC0415 - needs an extra

        exports.append(export_fp8(loaded, out, reference, progress=progress))
    (out / CARD_FILE).write_text(render_readme(exports), encoding="utf-8")
    return exports

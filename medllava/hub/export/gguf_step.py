"""GGUF files: written, asked through llama.cpp, and removed where they answer otherwise."""

# mypy: allow-untyped-calls
# transformers types its classes only in part

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medllava.errors import DataError
from medllava.hub.export.gguf_language import PRECISIONS, write_language_model
from medllava.hub.export.gguf_vision import write_vision
from medllava.hub.export.parity import Reference
from medllava.hub.export.results import Export, Parity
from medllava.model.loaded import LoadedModel
from medllava.progress import Progress

_USE = (
    "Pictures were made square by the model's own processor, as `medllava eval` and `medllava "
    "chat` do before they send them; llama.cpp pads others with a color and resampling of its own.",
    "",
    "    medllava chat image.png --ckpt MODEL.gguf",
    "    medllava eval TASK --ckpt MODEL.gguf",
    "    llama-server -m MODEL.gguf --mmproj MMPROJ.gguf",
    "    ollama create NAME -f Modelfile",
)


def export_gguf(
    loaded: LoadedModel,
    out: Path,
    kinds: Sequence[str],
    reference: Reference,
    *,
    progress: Progress,
) -> list[Export]:
    """Write a checkpoint for llama.cpp and compare every precision.

    Args:
        loaded: in float32.
        out: gets the files.
        kinds: precisions, as `gguf_language.PRECISIONS` names them.
        reference: the checkpoint's own answers.
        progress: told of the phases.

    Raises:
        SetupError: llama.cpp has no such language model or tokenizer.
        DataError: the files do not answer as transformers does in float32 either; they are removed.
    """
    exports, proved = [], False
    for kind in kinds:
        progress.start(f"write GGUF {kind}")
        files = _write(loaded, out, kind)
        progress.start(f"ask llama.cpp, {kind}")
        parity = reference.compare(*files, threads=torch.get_num_threads(), exact=kind == "f32")
        if parity.is_same:
            proved = proved or kind == "f32"
        elif not proved:
            proved = _prove(reference, loaded, out, files, parity)
        if not parity.is_same:
            progress.note(
                f"{kind}: {parity.same_answers} of {parity.prompts} greedy answers are those of "
                "float32. The files are right in float32; this is what the precision costs. "
                "Measure it on a task before you use it."
            )
        exports.append(Export(name=f"gguf-{kind}", files=files, parity=parity, use=_USE))
    model, vision = exports[0].files
    (out / "Modelfile").write_text(f"FROM ./{model.name}\nFROM ./{vision.name}\n")
    image_processor: Any = loaded.processor.image_processor
    image_processor.save_pretrained(out)
    return exports


def _write(loaded: LoadedModel, out: Path, kind: str) -> tuple[Path, Path]:
    model = out / f"model-{kind}.gguf"
    vision = out / ("mmproj-f32.gguf" if kind == "f32" else "mmproj-f16.gguf")
    write_language_model(loaded, model, precision=PRECISIONS[kind])
    write_vision(loaded, vision, precision=PRECISIONS[kind])
    return model, vision


def _prove(
    reference: Reference,
    loaded: LoadedModel,
    out: Path,
    files: tuple[Path, Path],
    parity: Parity,
) -> bool:
    """Tell a precision that costs answers from a file that is wrong: the latter is removed.

    Raises:
        DataError: in float32 too the answers are not those of transformers.
    """
    exact = out / ".proof"
    exact.mkdir(exist_ok=True)
    proof = _write(loaded, exact, "f32")
    found = reference.compare(*proof, threads=torch.get_num_threads(), exact=True)
    for path in proof:
        path.unlink()
    exact.rmdir()
    if found.is_same:
        return True
    for path in files:
        path.unlink(missing_ok=True)
    model: Any = loaded.model
    tower = model.config.vision_config.model_type
    why = ""
    if tower == "clip_vision_model":
        why = (
            " llama.cpp puts the class token behind the patches and then drops the first patch "
            "(its issue 25814), so a CLIP encoder's features arrive shifted; SigLIP and SigLIP 2 "
            "work."
        )
    raise DataError(
        f"llama.cpp does not answer as transformers does: {found.same_answers} of "
        f"{found.prompts} greedy answers and {found.same_text} prompts agree in float32 "
        f"({parity.same_answers} as exported). The files were removed.{why} "
        "Serve the folder with transformers, vLLM or SGLang."
    )

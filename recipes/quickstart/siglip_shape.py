"""The quickstart's model with a tower that llama.cpp runs: DINOv2 in SigLIP's shape.

llama.cpp has no graph for DINOv2. SigLIP's differs in three things: it has no class token, no layer
scale and another form of GELU. Layer scale is folded into the matrices before it; what patches take
from the class token on average becomes a constant of each head; the rest is copied. Nothing learns
here, and none of SigLIP's own weights are in it. A few steps of stage 2 get the model used to it:

    python recipes/quickstart/siglip_shape.py runs/quickstart runs/quickstart/reshaped
    medllava train smollm2-135m --stage 2 --data runs/quickstart/instructions/train \
        --init runs/quickstart/reshaped -o runs/quickstart/siglip --max-steps 40
    medllava push runs/quickstart/siglip --export gguf-q4_1
    medllava eval runs/quickstart/instructions/test/questions.jsonl \
        --ckpt runs/quickstart/siglip/export/model-q4_1.gguf
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlavaForConditionalGeneration,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from medllava.data.pixels import PixelReader
from medllava.model.load import load_model, save_model
from medllava.model.loaded import LoadedModel
from medllava.store import iter_jsonl, read_json

NAMES = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.o_proj": "self_attn.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
"""DINOv2's names in a layer to SigLIP's."""
SCALES = {"attention.o_proj": "layer_scale1.lambda1", "mlp.fc2": "layer_scale2.lambda1"}
"""Matrices to the scale of their outputs."""


def main(run: Path, out: Path) -> None:
    """Reshape the tower of the run's last model, measure it, write the model."""
    loaded = load_model(str(run / "stage2"), device="cpu", dtype="fp32")
    teacher: Any = loaded.model.model.vision_tower
    reader = PixelReader(loaded.processor.image_processor)
    images = training_images(run)
    student = build_student(teacher, reader.read(images[::2]))
    found = agreement(student, teacher, reader.read(images[1::2]))
    print(f"patches of {len(images) // 2} images not used for it: {found}")
    save_model(with_tower(loaded, student), out)


def with_tower(loaded: LoadedModel, tower: SiglipVisionModel) -> LoadedModel:
    """Return the model with another tower of the same width, which has no class token."""
    config: Any = copy.deepcopy(loaded.model.config)
    config.vision_config = tower.config
    config.image_seq_length = tower.embeddings.num_patches
    model = LlavaForConditionalGeneration(config).eval()
    parts: Any = loaded.model.model
    model.model.language_model.load_state_dict(parts.language_model.state_dict())
    model.model.multi_modal_projector.load_state_dict(parts.multi_modal_projector.state_dict())
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.lm_head.load_state_dict(loaded.model.lm_head.state_dict())
    model.generation_config = loaded.model.generation_config
    processor: Any = loaded.processor
    processor.num_additional_image_tokens = 0
    return replace(loaded, model=model)


def build_student(teacher: PreTrainedModel, batch: Tensor) -> SiglipVisionModel:
    """Return the teacher's weights in SigLIP's shape.

    Args:
        teacher: DINOv2.
        batch: pixels (B, 3, H, W) on which the share of the class token is measured.
    """
    config: Any = teacher.config
    student = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.hidden_size * config.mlp_ratio,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            layer_norm_eps=config.layer_norm_eps,
            vision_use_head=False,
        )
    )
    given = teacher.state_dict()
    patches = "embeddings.patch_embeddings.projection"
    state = {
        "embeddings.patch_embedding.weight": given[f"{patches}.weight"],
        "embeddings.patch_embedding.bias": given[f"{patches}.bias"],
        "embeddings.position_embedding.weight": given["embeddings.position_embeddings"][0, 1:],
        "post_layernorm.weight": given["layernorm.weight"],
        "post_layernorm.bias": given["layernorm.bias"],
    }
    taken = class_token_shares(teacher, batch)
    for number in range(config.num_hidden_layers):
        layer = f"encoder.layer.{number}."
        for theirs, ours in NAMES.items():
            weight, bias = given[f"{layer}{theirs}.weight"], given[f"{layer}{theirs}.bias"]
            if theirs in SCALES:
                scale = given[layer + SCALES[theirs]]
                weight, bias = scale[:, None] * weight, scale * bias
            if theirs == "attention.o_proj":
                share, value = taken[number]
                bias = bias + weight @ (share * value)
                weight = weight * (1 - share)
            state[f"encoder.layers.{number}.{ours}.weight"] = weight
            state[f"encoder.layers.{number}.{ours}.bias"] = bias
    student.load_state_dict(state, strict=True)
    return student


@torch.no_grad()
def class_token_shares(teacher: PreTrainedModel, batch: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return what patches take from the class token in each layer, on average.

    Without it, attention among patches grows by that share, and its value is missing.

    Returns:
        Per layer (E,) the share of attention, the same for all channels of a head, and the value.
    """
    model: Any = teacher
    model.set_attn_implementation("eager")
    values: list[Tensor] = []
    hooks = [
        layer.attention.v_proj.register_forward_hook(
            lambda _, __, value: values.append(value[:, 0].mean(dim=0))
        )
        for layer in model.encoder.layer
    ]
    attention = model(batch, output_attentions=True).attentions
    for hook in hooks:
        hook.remove()
    model.set_attn_implementation("sdpa")
    width = model.config.hidden_size // model.config.num_attention_heads
    shares = [found[:, :, 1:, 0].mean(dim=(0, 2)).repeat_interleave(width) for found in attention]
    return list(zip(shares, values, strict=True))


@torch.no_grad()
def agreement(
    student: SiglipVisionModel, teacher: PreTrainedModel, batch: Tensor
) -> dict[str, float]:
    """Tell how alike the last layers' patches are: mean cosine, share of variance explained."""
    wanted = teacher(batch, output_hidden_states=True).hidden_states[-1][:, 1:]
    found = student(batch, output_hidden_states=True).hidden_states[-1]
    mean = wanted.flatten(0, 1).mean(dim=0)
    residual = (found - wanted).square().flatten(0, 1).mean(dim=0)
    explained = 1 - residual / (wanted - mean).square().flatten(0, 1).mean(dim=0)
    cosine = torch.nn.functional.cosine_similarity(found - mean, wanted - mean, dim=-1)
    return {
        "cosine": round(float(cosine.mean()), 3),
        "explained": round(float(explained.mean()), 3),
    }


def training_images(run: Path) -> list[Path]:
    """Return the images that the training questions are about, none of the held-out ones."""
    folder = run / "instructions/train"
    root = folder / read_json(folder / "summary.json")["image_dir"]
    names = dict.fromkeys(str(line["image"]) for _, line in iter_jsonl(folder / "questions.jsonl"))
    return [root / name for name in names]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))

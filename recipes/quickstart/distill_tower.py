"""A tower that llama.cpp runs, taught by the quickstart's DINOv2: SigLIP's shape, no class token.

llama.cpp has no graph for DINOv2. SigLIP's differs in three things: it has no class token, no layer
scale and another form of GELU. Layer scale is folded into the matrices before it; what patches take
from the class token on average becomes a constant of each head; the rest is copied. Then some steps
on training images teach the student to give every patch what the teacher gives it. It is DINOv2's
knowledge in SigLIP's shape; none of SigLIP's weights are in it.

    python recipes/quickstart/distill_tower.py runs/quickstart DINOV2_FOLDER NEW_FOLDER

A folder for `model.vision_encoder.source` is written, with what was reached on held-out images.
"""

# mypy: allow-untyped-calls
# transformers types its classes only in part

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModel,
    BitImageProcessorPil,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from medllava.images.load import load_image
from medllava.layout import SOURCES_FILE
from medllava.model.vision import resize_encoder
from medllava.store import iter_jsonl, read_json, write_json

SIZE = 84
"""Pixels per side, as in the recipe smollm2-135m."""
BATCH = 16
LEARNING_RATE = 2e-5
HELD_OUT = 64
"""Training images that are kept to measure what was reached."""
CALIBRATION = 4
"""Batches on which the share of the class token is measured."""
SHOWN = (0.5, 1.0)
"""Share of an image's sides that a crop shows."""
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


def main(run: Path, teacher_dir: Path, out: Path, *, steps: int, seed: int) -> None:
    """Build the student, teach it, write it."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    prepare = BitImageProcessorPil.from_pretrained(teacher_dir)
    teacher = resize_encoder(AutoModel.from_pretrained(teacher_dir), image_size=SIZE).eval()
    paths = training_images(run)
    random.shuffle(paths)  # type: ignore[arg-type]
    images = [load_image(path).convert("RGB") for path in paths]
    held_out = pixels([image.resize((SIZE, SIZE)) for image in images[:HELD_OUT]], prepare)
    batches = crops(images[HELD_OUT:], prepare, random)
    student = build_student(teacher, torch.cat([next(batches) for _ in range(CALIBRATION)]))
    with torch.no_grad():
        wanted = teacher_features(teacher, held_out)
        began = agreement(student_features(student, held_out), wanted)
    deviation = wanted.flatten(0, 1).std(dim=0)
    print(f"{len(images):,} images; untaught: {began}", flush=True)
    teach(student, teacher, batches, deviation=deviation, steps=steps)
    with torch.no_grad():
        reached = agreement(student_features(student, held_out), wanted)
    print(f"after {steps} steps: {reached}", flush=True)
    student.save_pretrained(out)
    prepare.save_pretrained(out)
    shutil.copy(teacher_dir / SOURCES_FILE, out / SOURCES_FILE)
    facts = {"images": len(images), "steps": steps, "untaught": began, "reached": reached}
    write_json(out / "distilled.json", facts)


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


def teach(
    student: SiglipVisionModel,
    teacher: PreTrainedModel,
    batches: Iterator[Tensor],
    *,
    deviation: Tensor,
    steps: int,
) -> None:
    """Let the student learn; the rate rises for 10 steps and falls to nothing in the second half.

    Args:
        student: learns.
        teacher: rests.
        batches: pixels (B, 3, H, W).
        deviation: (E,) of the teacher's channels, which differ 30-fold in size.
        steps: how many batches are shown.
    """
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, weight_decay=0)
    for step in range(steps):
        rate = min(1.0, (step + 1) / 10, 2 * (1 - step / steps))
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate
        batch = next(batches)
        with torch.no_grad():
            wanted = teacher_features(teacher, batch)
        loss = (((student_features(student, batch) - wanted) / deviation) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0:
            print(
                f"step {step}: {float(loss.detach()):.4f} of the variance is not explained",
                flush=True,
            )


def teacher_features(teacher: PreTrainedModel, batch: Tensor) -> Tensor:
    """Return the teacher's last layer for every patch, (B, P, E), before its norm."""
    features: Tensor = teacher(batch, output_hidden_states=True).hidden_states[-1][:, 1:]
    return features


def student_features(student: SiglipVisionModel, batch: Tensor) -> Tensor:
    """Return the student's last layer for every patch, (B, P, E), before its norm."""
    features: Tensor = student(batch, output_hidden_states=True).hidden_states[-1]
    return features


def agreement(found: Tensor, wanted: Tensor) -> dict[str, float]:
    """Tell how alike features are: mean cosine, and share of the variance that is explained."""
    mean = wanted.flatten(0, 1).mean(dim=0)
    residual = (found - wanted).square().flatten(0, 1).mean(dim=0)
    explained = 1 - residual / (wanted - mean).square().flatten(0, 1).mean(dim=0)
    cosine = torch.nn.functional.cosine_similarity(found - mean, wanted - mean, dim=-1)
    found_values = {"cosine": cosine.mean(), "explained": explained.mean()}
    return {name: round(float(value), 4) for name, value in found_values.items()}


def training_images(run: Path) -> list[Path]:
    """Return the images that the training questions are about, none of the held-out ones."""
    folder = run / "instructions/train"
    root = folder / read_json(folder / "summary.json")["image_dir"]
    names = dict.fromkeys(str(line["image"]) for _, line in iter_jsonl(folder / "questions.jsonl"))
    return [root / name for name in names]


def crops(
    images: list[Image.Image], prepare: BitImageProcessorPil, random: np.random.Generator
) -> Iterator[Tensor]:
    """Yield batches of square crops, half of them mirrored, for ever."""
    while True:
        batch = []
        for index in random.integers(0, len(images), BATCH):
            image = images[index]
            side = round(min(image.size) * random.uniform(*SHOWN))
            left = int(random.integers(0, image.width - side + 1))
            top = int(random.integers(0, image.height - side + 1))
            crop = image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE))
            is_mirrored = random.random() < 0.5
            batch.append(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if is_mirrored else crop)
        yield pixels(batch, prepare)


def pixels(images: list[Image.Image], prepare: BitImageProcessorPil) -> Tensor:
    """Return images of the right size as the teacher wants them, (B, 3, H, W)."""
    values = prepare(images, do_resize=False, do_center_crop=False, return_tensors="pt")
    tensor: Tensor = values["pixel_values"]
    return tensor


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of the quickstart")
    parser.add_argument("teacher", type=Path, help="folder of DINOv2")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    main(given.run, given.teacher, given.out, steps=given.steps, seed=given.seed)

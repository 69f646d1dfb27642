"""Tiny made-up checkpoints and images for the model tests."""

import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, MistralConfig, MistralForCausalLM

from medllava.model.tiny import build_tiny_tokenizer

HIDDEN, WIDTH, VOCAB = 32, 128, 512


def noise_image(seed: int = 0, size: tuple[int, int] = (40, 28)) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def tiny_clip() -> CLIPVisionModel:
    torch.manual_seed(0)
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        )
    ).eval()


def tiny_mistral() -> MistralForCausalLM:
    torch.manual_seed(1)
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=None,
            rope_theta=10.0,  # far from the default, which an import must not fall back to
        )
    ).eval()


def old_layout(
    language_model: MistralForCausalLM,
    tower: CLIPVisionModel | None,
    projector: dict[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Name tensors as the reference's checkpoints do."""
    tensors = {name: t.clone() for name, t in language_model.state_dict().items()}
    tensors |= {f"model.mm_projector.{name}": t.clone() for name, t in projector.items()}
    if tower is not None:
        prefix = "model.vision_tower.vision_tower.vision_model."
        for name, t in tower.state_dict().items():
            tensors[prefix + name.removeprefix("vision_model.")] = t.clone()
    return tensors


def write_checkpoint(
    folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, object]
) -> Path:
    folder.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")
    text = tiny_mistral().config.to_dict()
    text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]  # as the older layout has it
    (folder / "config.json").write_text(json.dumps({**text, **config}))
    tokenizer = build_tiny_tokenizer(vocab_size=VOCAB)
    if config.get("mm_use_im_start_end"):
        tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    return folder

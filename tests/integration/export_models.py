"""Small random LLaVAs whose answers depend on the picture, for tests and benchmarks of export."""

import torch

from medllava.model.loaded import LoadedModel
from medllava.model.parts import build_model
from medllava.recipe import load_recipe

_TOWER = "model.vision_encoder"
_SIGLIP = (
    f"{_TOWER}.config.model_type='siglip_vision_model'",
    f"{_TOWER}.feature_select='full'",
)
TOWERS = {
    "clip-pad": (),
    "clip-crop": (f"{_TOWER}.geometry='crop'",),
    "siglip": _SIGLIP,
    "siglip-last-layer": (*_SIGLIP, f"{_TOWER}.feature_layer=-1"),
    "siglip2": (
        *_SIGLIP,
        f"{_TOWER}.config.patch_size=16",
        f"{_TOWER}.config.image_size=64",
        f"{_TOWER}.config.hidden_act='gelu_pytorch_tanh'",
    ),
    "dinov2": (f"{_TOWER}.config.model_type='dinov2'",),
}
LANGUAGE = {
    "llama": (),
    "mistral": ("model.language_model.config.model_type='mistral'",),
    "qwen2": ("model.language_model.config.model_type='qwen2'",),
    "qwen3": ("model.language_model.config.model_type='qwen3'",),
}


def build_small(tower: str, *, language: str = "llama", seed: int = 0) -> LoadedModel:
    """Build the debug model with another tower; weights are large enough to tell pictures apart."""
    overrides = (*TOWERS[tower], *LANGUAGE[language])
    loaded = build_model(load_recipe("debug", overrides=list(overrides)).model, seed=seed)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        for name, weight in loaded.model.named_parameters():
            if weight.ndim > 1:
                is_table = "embed" in name or "lm_head" in name
                weight.normal_(0, 1.0 if is_table else 2.0 / weight.shape[-1] ** 0.5)
    return loaded

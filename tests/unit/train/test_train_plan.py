"""The plan's arithmetic equals what torch counts, and its choices are stated and obeyed."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from medllava.errors import SetupError
from medllava.model.loaded import LoadedModel
from medllava.model.parts import build_model
from medllava.model.shapes import ModelShape, read_shape
from medllava.recipe import Adapter, Optimizer, Precision, Recipe, load_recipe
from medllava.records import InstructionRecord, Stage, Turn
from medllava.train.plan_text import render_plan
from medllava.train.planning.costs import (
    GIB,
    GPUS,
    PassCounts,
    Workload,
    compute_flops,
    compute_memory,
    find_gpu,
)
from medllava.train.planning.data_counts import DataStatistics, estimate_data
from medllava.train.planning.plan import build_plan
from medllava.train.settings import Settings
from medllava.train.stages import Learning, Part

LENGTH, NUM_IMAGES, SUPERVISED = 96, 2, 40


def wide_recipe() -> Recipe:
    """The debug recipe, wide enough for matrices to dominate."""
    return load_recipe(
        "debug",
        overrides=[
            "model.language_model.config.hidden_size=128",
            "model.language_model.config.intermediate_size=320",
            "model.language_model.config.num_hidden_layers=3",
            "model.vision_encoder.config.hidden_size=64",
            "model.vision_encoder.config.image_size=56",
        ],
    )


@pytest.fixture(scope="module")
def wide() -> tuple[LoadedModel, ModelShape]:
    recipe = wide_recipe()
    return build_model(recipe.model, seed=0), read_shape(recipe.model)


def batch(loaded: LoadedModel, shape: ModelShape) -> dict[str, Tensor]:
    """One sequence with two images, `LENGTH` tokens and `SUPERVISED` labels."""
    torch.manual_seed(0)
    size = loaded.processor.image_processor.crop_size["height"]
    ids = torch.randint(3, 200, (1, LENGTH))
    ids[0, : NUM_IMAGES * shape.num_image_tokens] = loaded.model.config.image_token_id
    return {
        "input_ids": ids,
        "pixel_values": torch.randn(NUM_IMAGES, 3, size, size),
        "logits_to_keep": torch.arange(LENGTH - SUPERVISED, LENGTH),
    }


def learning_of(*parts: Part) -> Learning:
    return Learning(parts=frozenset({Part.PROJECTOR, *parts}))


def freeze(model: torch.nn.Module, learning: Learning) -> None:
    for name, parameter in model.named_parameters():
        is_language = "language_model" in name or "lm_head" in name
        parameter.requires_grad_(
            "multi_modal_projector" in name
            or (learning.language_model and is_language)
            or (learning.vision_encoder and "vision_tower" in name)
        )


@pytest.mark.parametrize(
    "learning",
    [
        learning_of(),
        learning_of(Part.LANGUAGE_MODEL),
        learning_of(Part.LANGUAGE_MODEL, Part.VISION_ENCODER),
    ],
)
def test_flops_equal_what_torch_counts(
    wide: tuple[LoadedModel, ModelShape], learning: Learning
) -> None:
    loaded, shape = wide
    freeze(loaded.model, learning)
    loaded.model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        loaded.model(**batch(loaded, shape), use_cache=False).logits.sum().backward()
    loaded.model.zero_grad()
    work = Workload(
        num_tokens=LENGTH,
        num_supervised=SUPERVISED,
        num_images=NUM_IMAGES,
        sum_squared_lengths=2.0 * LENGTH**2,  # eager attention computes the masked half, too
    )
    # Worst case measured: 0.8 % (the first layer's input gradient, norms of the encoder). Counting
    # 6 for 4 in the frozen stage, or all logits, is off by more than 20 %.
    assert compute_flops(shape, learning, work) == pytest.approx(
        counter.get_total_flops(), rel=0.02
    )


def test_frozen_language_model_costs_four_per_parameter_and_token() -> None:
    shape = read_shape(load_recipe("llava-med-v1.5").model)
    work = Workload(num_tokens=1_000_000, num_supervised=0, num_images=0, sum_squared_lengths=0.0)
    flops = compute_flops(shape, learning_of(), work)
    assert flops == 4 * shape.layer_parameters * 1_000_000


def saved_bytes(model: torch.nn.Module, inputs: dict[str, Tensor]) -> int:
    """Bytes that autograd keeps of one forward pass, weights not counted."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(**inputs, use_cache=False).logits
    total = sum(kept.values())
    del out
    return total


@pytest.mark.parametrize("language_model", [False, True])
def test_activation_estimate_is_near_what_autograd_keeps(language_model: bool) -> None:
    recipe = wide_recipe()
    loaded, shape = build_model(recipe.model, seed=0), read_shape(recipe.model)
    learning = learning_of(*([Part.LANGUAGE_MODEL] if language_model else []))
    freeze(loaded.model, learning)
    loaded.model.set_attn_implementation("sdpa")
    measured = saved_bytes(loaded.model, batch(loaded, shape))
    settings = Settings(world_size=1, precision=Precision.FP32, pack_length=LENGTH)
    work = PassCounts(tokens=LENGTH, supervised=SUPERVISED, images=NUM_IMAGES)
    memory = compute_memory(shape, learning, settings, work)
    # Within a third: kernels keep different things. Forgetting a layer's gate or attention is more.
    assert memory["activations"] == pytest.approx(measured, rel=0.33)


def test_shapes_of_the_shipped_recipes_are_the_published_sizes() -> None:
    shape = read_shape(load_recipe("llava-med-v1.5").model)
    assert shape.language_parameters == 7_241_732_096  # Mistral-7B
    assert shape.num_image_tokens == 576
    # 15.13 GB of bf16 on the hub, tower inside.
    assert shape.num_parameters * 2 == pytest.approx(15.13e9, rel=2e-3)
    assert read_shape(load_recipe("qwen3-8b-siglip2").model).language_parameters == 8_190_735_360
    assert read_shape(load_recipe("qwen3-4b-siglip2").model).num_image_tokens == 729
    assert read_shape(load_recipe("llava-med-v1-biomedclip").model).num_image_tokens == 196


def test_shape_counts_equal_the_built_model(wide: tuple[LoadedModel, ModelShape]) -> None:
    loaded, shape = wide
    assert shape.num_parameters == sum(p.numel() for p in loaded.model.parameters())


def plan_of(recipe: Recipe, stage: Stage = Stage.INSTRUCT, **options: object) -> object:
    return build_plan(recipe, stage, read_shape(recipe.model), **options)  # type: ignore[arg-type]


def test_plan_without_data_says_so_and_is_plain_json() -> None:
    plan = plan_of(load_recipe("llava-med-v1.5"), world_size=8, gpu="A100-40G")
    values = json.loads(json.dumps(plan.to_json()))
    assert values["data"]["is_assumed"]
    assert values["data"]["num_records"] == 60_017
    assert values["chosen"]["fits"]
    assert values["chosen"]["settings"]["zero_stage"] == 2
    assert values["chosen"]["settings"]["gradient_checkpointing"]
    assert {row["gpu"] for row in values["alternatives"]} == set(GPUS)
    text = dict(render_plan(plan))
    assert "frozen" in text["vision encoder"]
    assert "learns at 2e-05" in text["language model"]
    assert any("estimated" in row[1] for row in render_plan(plan))


def test_recipe_settings_are_obeyed_and_misfits_are_said() -> None:
    recipe = load_recipe(
        "llava-med-v1.5",
        overrides=["train.zero_stage=2", "train.gradient_checkpointing=false"],
    )
    chosen = plan_of(recipe, world_size=1, gpu="A100-40G").chosen
    assert (chosen.settings.zero_stage, chosen.settings.gradient_checkpointing) == (2, False)
    assert not chosen.fits
    rows = dict(render_plan(plan_of(recipe, world_size=1, gpu="A100-40G")))
    assert rows["A100-40G x 1"].startswith("does not fit")


def test_qlora_of_7b_fits_one_small_gpu_where_full_training_does_not() -> None:
    recipe = load_recipe("llava-med-v1.5", overrides=["stage.instruct.adapter=qlora"])
    assert plan_of(recipe, world_size=1, gpu="A100-40G").chosen.fits
    full = load_recipe("llava-med-v1.5", overrides=["train.offload=false"])
    assert not plan_of(full, world_size=1, gpu="A100-40G").chosen.fits


def test_more_gpus_take_fewer_hours_and_less_memory_each() -> None:
    recipe = load_recipe("llava-med-v1.5")
    one, eight = (plan_of(recipe, world_size=n, gpu="H200").chosen for n in (1, 8))
    assert eight.hours == pytest.approx(one.hours / 8, rel=0.35)
    assert eight.memory_bytes["optimizer"] < one.memory_bytes["optimizer"] or one.settings.offload


def statistics(num_records: int, length: int, **changes: object) -> DataStatistics:
    data = DataStatistics.of_lengths(
        [length] * num_records, source="here", num_supervised=num_records * 10, num_images=1
    )
    return replace(data, **changes)  # type: ignore[arg-type]


def test_steps_follow_from_records_packs_and_ranks() -> None:
    recipe = load_recipe("debug", overrides=["stage.instruct.global_batch_size=16"])
    data = statistics(100, 128, num_packs=25)  # four records per pack
    batches = plan_of(recipe, data=data, world_size=2).batches
    assert batches.units_per_step == 4
    assert batches.gradient_accumulation_steps == 2
    assert batches.num_steps == math.ceil(25 / 4)
    assert plan_of(recipe, data=data, world_size=2, max_steps=3).batches.num_steps == 3
    padded = load_recipe("debug", overrides=["data.packing=false"])
    assert plan_of(padded, data=data).batches.num_units == 100


def test_too_many_dropped_records_refuse_the_run_with_reasons() -> None:
    recipe = load_recipe("debug", overrides=["data.max_dropped=0.05"])
    plan = plan_of(recipe, data=statistics(90, 64, num_dropped={"image missing": 10}))
    assert plan.refusal is not None
    assert "10.0% of the records" in plan.refusal
    assert "10 image missing" in plan.refusal
    assert plan_of(recipe, data=statistics(99, 64, num_dropped={"too long": 1})).refusal is None
    assert "no record is left" in str(plan_of(recipe, data=statistics(0, 64)).refusal)


def test_stage_one_learns_the_projector_only() -> None:
    recipe = load_recipe("llava-med-v1.5")
    parts = plan_of(recipe, Stage.ALIGN).parts
    assert [part.learns for part in parts] == ["no", "yes", "no"]
    lora = load_recipe("llava-med-v1.5", overrides=["stage.align.adapter=lora"])
    assert [part.learns for part in plan_of(lora, Stage.ALIGN).parts] == ["no", "yes", "no"]
    assert Learning.of(Stage.INSTRUCT, replace(lora.stage.instruct, adapter=Adapter.LORA)) == (
        Learning(parts=frozenset({Part.PROJECTOR}), adapter=Adapter.LORA, adapter_rank=128)
    )


def records() -> Iterator[InstructionRecord]:
    for number in range(3):
        yield InstructionRecord(
            record_id=str(number),
            images=("a.png",),
            turns=(
                Turn(role="user", content="<image>\n" + "word " * 40),
                Turn(role="assistant", content="word " * 20),
            ),
            stage=Stage.INSTRUCT,
        )


def test_records_are_counted_without_a_tokenizer() -> None:
    shape = read_shape(load_recipe("llava-med-v1.5").model)
    data = estimate_data(records(), shape, source="x.jsonl")
    assert data.num_records == data.num_images == 3
    assert data.is_assumed
    assert data.longest == pytest.approx(576 + 60 * 1.25 + 12, abs=8)


def test_devices_are_recognised_by_the_drivers_names() -> None:
    h100 = find_gpu("NVIDIA H100 80GB HBM3", memory_bytes=79 * GIB)
    assert h100 is not None
    assert h100.name == "H100"
    small = find_gpu("NVIDIA A100-SXM4-40GB", memory_bytes=39 * GIB)
    assert small is not None
    assert small.name == "A100-40G"
    assert find_gpu("Quadro", memory_bytes=GIB) is None


def test_part_without_a_configuration_anywhere_says_where_to_put_one() -> None:
    recipe = load_recipe("llava-med-v1.5")
    text = replace(recipe.model.language_model, source="some/model", config={})
    with pytest.raises(SetupError, match=r"\[model\.language_model\.config\]"):
        read_shape(replace(recipe.model, language_model=text))


def test_planning_itself_needs_no_torch() -> None:
    script = (
        "import sys\n"
        "import medllava.train.planning.plan, medllava.train.plan_text\n"
        "import medllava.train.planning.data_counts\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# Peaks of 7B steps on one H200, in GiB (docs/benchmarks.md): stage, pack, Liger, measured. AdamW's
# moments were bf16 there, 4 bytes per learning parameter for the plan's 8.
@pytest.mark.parametrize(
    ("stage", "pack", "liger", "measured"),
    [
        (Stage.ALIGN, 2048, False, 23.7),
        (Stage.ALIGN, 8192, False, 52.2),
        (Stage.ALIGN, 8192, True, 40.9),
        (Stage.INSTRUCT, 2048, False, 55.5),
        (Stage.INSTRUCT, 8192, False, 97.9),
        (Stage.INSTRUCT, 8192, True, 79.1),
    ],
)
def test_memory_is_within_15_percent_of_what_an_h200_was_seen_to_take(
    stage: Stage, pack: int, liger: bool, measured: float
) -> None:
    recipe = load_recipe("llava-med-v1.5")
    shape, learning = read_shape(recipe.model), Learning.of(stage, recipe.stage[stage])
    settings = Settings(
        world_size=1,
        precision=Precision.BF16,
        optimizer=Optimizer.BF16_STOCHASTIC,
        pack_length=pack,
        liger=liger,
    )
    images = pack // 716 if stage is Stage.ALIGN else pack // 906
    work = PassCounts(tokens=pack, supervised=pack // 6, images=images)
    memory = compute_memory(shape, learning, settings, work)
    memory["optimizer"] //= 2
    assert sum(memory.values()) / GIB == pytest.approx(measured, rel=0.15)


def test_7b_stage_2_fits_one_80_gb_card_with_eight_bit_moments_and_141_gb_with_masters() -> None:
    eight_bit = load_recipe("llava-med-v1.5", overrides=["train.optimizer=eight_bit"])
    chosen = plan_of(eight_bit, world_size=1, gpu="H100").chosen
    assert chosen.fits
    assert not chosen.settings.offload
    masters = plan_of(load_recipe("llava-med-v1.5"), world_size=1, gpu="H200").chosen
    assert masters.fits
    assert not masters.settings.offload
    assert masters.settings.optimizer is Optimizer.FP32_MASTERS

"""The plan of stages 4 and 5: every side of a pair and every answer is a record without packing.

What these stages do beyond learning is added: the reference's pass over all pairs, the answers that
are given before they are learned from, and the model that a distance is kept to.
"""

from dataclasses import dataclass, replace
from typing import Any

from medllava.model.shapes import ModelShape
from medllava.recipe import Recipe
from medllava.records import Stage
from medllava.train.planning.costs import GIB, Gpu, Workload, forward_flops
from medllava.train.planning.data_counts import DataStatistics
from medllava.train.planning.plan import Cpu, GpuPlan, Plan, build_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class _Extra:
    """What a stage does beside learning."""

    flops: float
    bytes: int
    note: str


def plan_trl(
    recipe: Recipe,
    stage: Stage,
    shape: ModelShape,
    *,
    data: DataStatistics | None,
    gpu: Gpu,
    max_steps: int | None,
    cpu: Cpu | None,
) -> Plan:
    """Plan a stage that TRL runs.

    Args:
        recipe: resolved.
        stage: `prefer` or `reinforce`.
        shape: of the model.
        data: counts of sides, or of answers of one pass; None assumes published sizes.
        gpu: that is planned for.
        max_steps: stop after this many steps.
        cpu: this machine, where it has no GPU.
    """
    rows = 2 if stage is Stage.PREFER else recipe.stage.reinforce.generations
    own = recipe.stage[stage]
    per_pass = own.micro_batch_size * (2 if stage is Stage.PREFER else 1)
    spread = replace(own, micro_batch_size=per_pass, global_batch_size=own.global_batch_size * rows)
    stages: dict[str, Any] = {stage.value: spread}
    unpacked = replace(
        recipe,
        data=replace(recipe.data, packing=False),
        stage=replace(recipe.stage, **stages),
    )
    plan = build_plan(unpacked, stage, shape, data=data, gpu=gpu, max_steps=max_steps, cpu=cpu)
    extra = _extra(recipe, stage, shape, plan)
    share = 1 + extra.flops / max(plan.flops, 1.0)
    return replace(
        plan,
        flops=plan.flops + extra.flops,
        chosen=_with(plan.chosen, extra, share),
        alternatives=tuple(_with(other, extra, share) for other in plan.alternatives),
        here=_with(plan.here, extra, share) if plan.here else None,
        notes=(*plan.notes, extra.note),
    )


def _extra(recipe: Recipe, stage: Stage, shape: ModelShape, plan: Plan) -> _Extra:
    data = plan.data
    once = Workload(
        num_tokens=data.num_tokens,
        num_supervised=data.num_supervised,
        num_images=data.num_images,
        sum_squared_lengths=data.sum_squared_lengths,
    )
    flops = forward_flops(shape, once)
    if stage is Stage.PREFER:
        note = (
            f"the reference reads all {data.num_records // 2:,} pairs once before the first step "
            f"({flops:.3g} FLOPs, counted) and is kept as two numbers each; no second model"
        )
        return _Extra(flops=flops, bytes=0, note=note)
    passes = plan.batches.num_steps / max(plan.batches.steps_per_epoch, 1e-9)
    config = recipe.stage.reinforce
    held = 0
    if config.kl:
        held = shape.num_parameters * plan.chosen.settings.bytes_per_weight
        flops *= 2
    answers = plan.batches.num_steps * config.global_batch_size * config.generations
    note = (
        f"{answers:,} answers of at most {config.max_new_tokens} tokens are given, "
        f"{config.generations} to a question ({flops * passes:.3g} FLOPs, counted); giving them "
        "token by token takes longer than the hours say"
        + (f"; the model to stay near holds {held / GIB:.1f} GiB" if held else "")
    )
    return _Extra(flops=flops * passes, bytes=held, note=note)


def _with(plan: GpuPlan, extra: _Extra, share: float) -> GpuPlan:
    memory = dict(plan.memory_bytes)
    if extra.bytes:
        memory["reference"] = extra.bytes
    total = sum(memory.values())
    fits = plan.fits and (not plan.capacity_bytes or total <= plan.capacity_bytes)
    hours = None if plan.hours is None else plan.hours * share
    return replace(plan, memory_bytes=memory, hours=hours, fits=fits)

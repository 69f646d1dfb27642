"""A plan as rows that a person reads; `Plan.to_json` is the same for scripts."""

from medllava.train.planning.costs import GIB
from medllava.train.planning.data_counts import dropped_text
from medllava.train.planning.plan import GpuPlan, PartPlan, Plan


def render_plan(plan: Plan) -> list[tuple[str, str]]:
    """Return what a person reads, as (what, how much) rows."""
    rows = [(part.name, _part_text(part)) for part in plan.parts]
    data, batches, chosen = plan.data, plan.batches, plan.chosen
    rows += [
        ("data", f"{data.source}{' (assumed counts)' if data.is_assumed else ''}"),
        ("records", f"{data.num_records:,}, {dropped_text(data)}"),
        ("tokens per epoch", f"{data.num_tokens:,}, {data.num_supervised:,} supervised"),
        ("packs per epoch", f"{batches.num_units:,} of {batches.records_per_unit:.1f} records"),
        ("steps", f"{batches.num_steps:,} of {batches.units_per_step:,} packs"),
        ("model FLOPs", f"{plan.flops:.3g}"),
        ("memory per device", _memory_text(chosen)),
    ]
    if data.mixture:
        rows.insert(len(plan.parts) + 1, ("mixture", data.mixture))
    rows += [
        (f"{other.gpu} x {other.settings.world_size}", _gpu_text(other))
        for other in plan.alternatives
    ]
    if plan.here:
        rows.append(("this CPU", _cpu_text(plan.here)))
    rows += [("note", note) for note in plan.notes]
    if plan.refusal:
        rows.append(("refused", plan.refusal))
    return rows


def _part_text(part: PartPlan) -> str:
    learns = {"no": "frozen", "yes": f"learns at {part.learning_rate:g}"}.get(
        part.learns, f"{part.learns} at {part.learning_rate:g}"
    )
    return f"{part.source}, {part.num_parameters / 1e6:,.1f} M parameters, {learns}"


def _memory_text(plan: GpuPlan) -> str:
    causes = ", ".join(
        f"{cause} {bytes_ / GIB:.1f}" for cause, bytes_ in plan.memory_bytes.items() if bytes_
    )
    return f"{plan.total_bytes / GIB:.1f} GiB ({causes})"


def _gpu_text(plan: GpuPlan) -> str:
    settings = plan.settings
    how = f"packs of {settings.pack_length:,}, ZeRO-{settings.zero_stage}"
    how += ", gradient checkpointing" if settings.gradient_checkpointing else ""
    if settings.offload:
        how += f", optimizer on the CPU ({plan.host_bytes / GIB:.0f} GiB of host memory each)"
    size = f"{plan.total_bytes / GIB:.0f} of {plan.capacity_bytes / GIB:.0f} GiB"
    if not plan.fits:
        return f"does not fit: {size} with {how}"
    return f"about {plan.hours:.1f} h, {size}, {how}"


def _cpu_text(plan: GpuPlan) -> str:
    size = f"{plan.total_bytes / GIB:.1f} of {plan.capacity_bytes / GIB:.0f} GiB"
    how = f"packs of {plan.settings.pack_length:,}, {plan.settings.precision.value}: {plan.why}"
    return f"{'' if plan.fits else 'does not fit: '}{size}, {how}"

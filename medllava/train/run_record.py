"""What `run.json` says about a run: enough to tell how a checkpoint came to be."""

import platform
from pathlib import Path

import torch

from medllava import __version__
from medllava.data.dataset import ExampleIndex
from medllava.layout import RUN_FILE
from medllava.provenance import code_commit, package_versions, trace_sources
from medllava.recipe import LanguageModelConfig, ModelConfig, VisionEncoderConfig
from medllava.records import (
    DataRecord,
    InitRecord,
    MachineRecord,
    MixtureRecord,
    PartRecord,
    RunRecord,
)
from medllava.store import read_record


def describe_parts(model: ModelConfig) -> dict[str, PartRecord]:
    """Return source and license of every part that had weights, and what it was made from."""
    return {
        "vision_encoder": _describe_part(model.vision_encoder),
        "language_model": _describe_part(model.language_model),
    }


def describe_data(
    source: str, index: ExampleIndex, *, mixture: tuple[MixtureRecord, ...] = ()
) -> DataRecord:
    """Return what was used and what was not."""
    return DataRecord(
        source=source,
        sources=tuple(dict.fromkeys(s for part in mixture for s in part.sources))
        or trace_sources(Path(source)),
        mixture=mixture,
        used=len(index),
        dropped=sum(index.drop_counts.values()),
        dropped_by_reason=index.drop_counts,
        shortened=index.shortened,
        tokens=int(index.lengths.sum()),
        supervised_tokens=int(index.supervised_counts.sum()),
        images=len(index.images),
        fingerprint=index.fingerprint(),
        by_license=index.facts.get("license", {}),
        by_modality=index.facts.get("modality", {}),
        by_teacher=index.facts.get("teacher", {}),
        by_stage=index.facts.get("stage", {}),
        repaired=index.facts.get("repair", {}),
        repeated_ids=index.repeated_ids,
    )


def describe_init(init: str) -> InitRecord:
    """Return where the weights came from, with that run's own description if it has one."""
    run = Path(init) / RUN_FILE
    return InitRecord(source=init, run=read_record(run, RunRecord) if run.is_file() else None)


def describe_machine() -> MachineRecord:
    """Return hardware, packages and our own version."""
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        device = f"CPU {platform.machine()}, {torch.get_num_threads()} threads"
    return MachineRecord(
        device=device,
        platform=platform.platform(),
        python=platform.python_version(),
        medllava=__version__,
        git_commit=code_commit(),
        packages=package_versions(),
    )


def _describe_part(part: VisionEncoderConfig | LanguageModelConfig) -> PartRecord:
    sources = trace_sources(Path(part.source))
    return PartRecord(source=part.source, license=part.license, sources=sources)

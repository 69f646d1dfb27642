"""Everything a stage needs before its first step: model, index, schedule, batches."""

import platform
import random
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from medllava.data.dataset import (
    ExampleIndex,
    ImageScreen,
    build_index,
    join_indexes,
    load_index,
    save_index,
)
from medllava.data.dropped import IMAGE_DROPS, DropReason, unusable_share
from medllava.data.image_verdicts import ImageVerdicts
from medllava.data.mixture import Mixture, mix
from medllava.data.packing import MicroBatches
from medllava.data.pixels import PixelReader
from medllava.data.prefix_sharing import Sharing, find_sharing, share_nothing
from medllava.data.schedule import Schedule, build_schedule
from medllava.data.sources import image_root
from medllava.errors import DataError
from medllava.images.load import load_image
from medllava.layout import DROPPED_FILE, LEARNED_FILE
from medllava.model.adapter import attach_adapter
from medllava.model.attention import choose_attention, supports_branches
from medllava.model.load import load_model
from medllava.model.loaded import LoadedModel
from medllava.model.parts import build_model
from medllava.model.processor import num_image_tokens
from medllava.model.quantize import quantize_language_model
from medllava.model.standardize import feature_statistics
from medllava.progress import Progress
from medllava.recipe import Adapter
from medllava.records import InstructionRecord
from medllava.store import iter_jsonl
from medllava.train.config import FROM_PARTS, StageRunConfig
from medllava.train.freezing import freeze_parts, restore_learned
from medllava.train.privacy import pass_gate
from medllava.train.ranks import Ranks
from medllava.train.settings import Settings
from medllava.train.stage_data import StageData, find_data
from medllava.train.stages import learning_parts, uses_adapter

_CALIBRATION_IMAGES = 64
_CALIBRATION_POOL = 20_000
_CACHE_BYTES = 4 * 2**30
"""Resized images are kept up to this size: what indexing decoded is not decoded again."""
PIXELS_FILE = ".pixels"
_INDEX_FILE = ".index.npz"
RANDOM_FOLDER = "random-data"


def load_initial(
    config: StageRunConfig, settings: Settings, data: StageData, *, resumed: Path | None
) -> LoadedModel:
    """Load the checkpoint to go on from, the model to start from, or build it from parts.

    What does not learn is frozen, and an adapter is attached where the recipe wants one.

    All weights are in the precision of the settings; where that is bf16 the optimizer sees to it
    that small steps are not lost (`train.optimizer`).

    Args:
        config: of the run.
        settings: precision.
        data: its images may set how a new projector starts.
        resumed: checkpoint of the same run.
    """
    stage = config.recipe.stage[config.stage]
    has_adapter = uses_adapter(config.stage, stage)
    source = str(resumed) if resumed and not has_adapter else config.init
    loaded = _load_source(config, data, source, is_half=settings.is_half)
    if has_adapter:
        if stage.adapter is Adapter.QLORA:
            dtype = torch.bfloat16 if settings.is_half else torch.float32
            quantize_language_model(loaded.model, compute_dtype=dtype)
        attach_adapter(
            loaded.model,
            rank=stage.lora_rank,
            alpha=stage.lora_alpha,
            dropout=stage.lora_dropout,
            seed=config.recipe.train.seed,
        )
    freeze_parts(loaded.model, learning_parts(config.stage, stage))
    if has_adapter and resumed:
        restore_learned(loaded.model, load_file(resumed / LEARNED_FILE))
    return loaded


def statistics_of_features(
    config: StageRunConfig,
    settings: Settings,
    data: StageData,
    loaded: LoadedModel,
    *,
    progress: Progress,
) -> tuple[Tensor, Tensor] | None:
    """Return mean and deviation of what the projector is given, where it learns by them.

    None where the recipe does not ask, where the projector rests, or where DeepSpeed takes the
    steps.
    """
    recipe, projector = config.recipe, loaded.model.model.multi_modal_projector
    if not recipe.model.projector.standardize_features:
        return None
    if not projector.linear_1.weight.requires_grad or projector.linear_1.bias is None:
        return None
    if settings.is_sharded:
        progress.note("standardize_features: DeepSpeed takes the projector's steps on raw features")
        return None
    return feature_statistics(
        loaded.model,
        loaded.processor,
        images=_sample_images(config, data),
        seed=recipe.train.seed,
    )


def _load_source(
    config: StageRunConfig, data: StageData, source: str, *, is_half: bool
) -> LoadedModel:
    recipe = config.recipe
    device = "cuda" if torch.cuda.is_available() else "cpu"
    attention = choose_attention(recipe.train.attention, device=device)
    if source != FROM_PARTS:
        loaded = load_model(source, device="cpu", dtype="bf16" if is_half else "fp32")
        loaded.model.set_attn_implementation(attention)
        return loaded
    wants_images = recipe.model.projector.standardize_features
    return build_model(
        recipe.model,
        seed=recipe.train.seed,
        dtype=torch.bfloat16 if is_half else torch.float32,
        attention=attention,
        calibration=_sample_images(config, data) if wants_images else (),
    )


def index_data(
    config: StageRunConfig,
    data: StageData,
    processor: Any,  # noqa: ANN401 - the model's processor
    *,
    progress: Progress,
    cache_file: Path | None = None,
    lost_before: Collection[tuple[int, int]] | None = None,
) -> ExampleIndex:
    """Read and tokenize the records, and decode each of their images once.

    Args:
        config: of the run.
        data: the records and where their images are.
        processor: of the model that will be trained.
        progress: told how far it is.
        cache_file: keeps the resized images, so that training does not decode them again.
        lost_before: source and item of the records that the run dropped for their images when it
            began; None if it begins.

    Raises:
        DataError: no record can be used.
    """
    pixels = PixelReader(processor.image_processor)
    if cache_file is not None:
        cache_file.unlink(missing_ok=True)
        pixels.keep(cache_file, (), room=_cache_room(cache_file) // pixels.image_bytes)
    verdicts = [ImageVerdicts(source.image_root, progress) for source in data.sources()]
    indexes = [
        build_index(
            source.records(),
            processor,
            image_root=source.image_root,
            image_tokens=num_image_tokens(processor),
            max_length=config.recipe.data.max_length,
            progress=progress,
            screen=ImageScreen(
                open_image=partial(
                    verdicts[number].try_once, decode=pixels.admit, trust=pixels.reserve
                ),
                lost_before=None
                if lost_before is None
                else frozenset(item for origin, item in lost_before if origin == number),
            ),
        )
        for number, source in enumerate(data.sources())
    ]
    for found in verdicts:
        found.save()
    index = join_indexes(indexes) if config.mixture else indexes[0]
    return replace(index, kept_pixels=pixels.kept)


def mixture_of(config: StageRunConfig, index: ExampleIndex) -> Mixture | None:
    """Return how the sources of a run are mixed; None where there is one only."""
    return mix(index.origins, config.mixture) if len(index.origins) else None


def share_index(
    config: StageRunConfig,
    data: StageData,
    processor: Any,  # noqa: ANN401 - the model's processor
    ranks: Ranks,
    *,
    progress: Progress,
    is_training: bool = False,
) -> ExampleIndex:
    """Let rank 0 read and tokenize the records, and give the others what it made.

    Args:
        config: of the run.
        data: the records and where their images are.
        processor: of the model that will be trained.
        ranks: all that train together.
        progress: told how far it is.
        is_training: these are what the run learns from: their resized images are kept on rank 0's
            machine for `make_batches`, and a run that goes on drops what it dropped at first.

    Raises:
        DataError: more of the records cannot be used than `data.max_dropped` allows, or the privacy
            gate found something.
    """
    path = config.output_dir / _INDEX_FILE
    if ranks.is_main:
        index = index_data(
            config,
            data,
            processor,
            progress=progress,
            cache_file=_pixels_file(config.output_dir) if is_training else None,
            lost_before=_lost_before(config.output_dir) if is_training else None,
        )
        check_dropped(config, index)
        if index.dropped:
            progress.note(f"not used: {_reasons(index)} of {len(index) + len(index.dropped):,}")
        if is_training:
            pass_gate(config, data, index.images, progress=progress)
        if ranks.world_size > 1:
            save_index(index, path)
    ranks.wait()
    if not ranks.is_main:
        index = load_index(path)
    ranks.wait()
    path.unlink(missing_ok=True)
    return index


def share_data(config: StageRunConfig, ranks: Ranks) -> StageData:
    """Find the records; made-up ones are made by rank 0."""
    made_up = config.output_dir / RANDOM_FOLDER
    if ranks.is_main:
        find_data(config, made_up=made_up)
    ranks.wait()
    return find_data(config, made_up=made_up)


def check_dropped(config: StageRunConfig, index: ExampleIndex) -> None:
    """Refuse data of which too much is left out.

    Raises:
        DataError: more than `data.max_dropped` of the records cannot be used; counts the reasons.
    """
    share = unusable_share(index.drop_counts, used=len(index))
    if share > config.recipe.data.max_dropped:
        first = next(d for d in index.dropped if d.reason is not DropReason.STRUCK)
        raise DataError(
            f"{share:.1%} of the records cannot be used ({_reasons(index)}; the first is "
            f"{first.describe()}): {config.data}. "
            f"Check --image-dir, or allow it with --set data.max_dropped={share + 0.005:.2f}."
        )


def _reasons(index: ExampleIndex) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in index.drop_counts.items())


def choose_sharing(
    config: StageRunConfig, index: ExampleIndex, loaded: LoadedModel, *, progress: Progress
) -> Sharing:
    """Find records that share an image's tokens, if the recipe asks and the attention can."""
    data = config.recipe.data
    text: Any = loaded.model.config.text_config
    if data.records_per_image <= 1:
        return share_nothing(index.lengths)
    window = getattr(text, "sliding_window", None)
    name = text._attn_implementation  # noqa: SLF001 - its only name
    longest = int(index.lengths.max())
    if not data.packing or not supports_branches(name, window, longest=longest):
        progress.note("data.records_per_image is not used: it needs packing and our attention")
        return share_nothing(index.lengths)
    return find_sharing(
        index, image_token_id=loaded.processor.image_token_id, most=data.records_per_image
    )


def lay_out(
    config: StageRunConfig,
    settings: Settings,
    sharing: Sharing,
    mixture: Mixture | None = None,
    *,
    began_with: int | None = None,
) -> Schedule:
    """Lay out all steps of the stage; one that goes on has those of the ranks it began with."""
    stage = config.recipe.stage[config.stage]
    return build_schedule(
        sharing,
        pack_length=settings.pack_length,
        packing=config.recipe.data.packing,
        global_batch_size=stage.global_batch_size,
        micro_batch_size=settings.micro_batch_size,
        world_size=settings.world_size,
        laid_out_for=began_with,
        epochs=stage.epochs,
        seed=config.recipe.train.seed,
        max_steps=config.max_steps,
        mixture=mixture,
    )


def make_batches(
    config: StageRunConfig,
    index: ExampleIndex,
    schedule: Schedule,
    processor: Any,  # noqa: ANN401 - the model's processor
    *,
    ranks: Ranks,
) -> MicroBatches:
    """Return the micro-batches of one rank; the ranks of a machine share resized images."""
    pixels = PixelReader(processor.image_processor)
    path = _pixels_file(config.output_dir)
    if ranks.local_rank == 0 and not ranks.is_main:  # another machine, whose file begins empty
        path.unlink(missing_ok=True)
    ranks.wait()
    pixels.keep(path, index.kept_pixels)
    return _batches(config, index, schedule, processor, pixels=pixels, rank=ranks.rank)


def make_held_out(
    config: StageRunConfig,
    settings: Settings,
    processor: Any,  # noqa: ANN401 - the model's processor
    ranks: Ranks,
    *,
    progress: Progress,
) -> MicroBatches | None:
    """Return one rank's share of the held-out records, one pass over them; None without any."""
    if config.validation_data is None:
        return None
    path = config.validation_data
    data = StageData(path=path, image_root=image_root(path, config.image_dir))
    index = share_index(config, data, processor, ranks, progress=progress)
    schedule = build_schedule(
        share_nothing(index.lengths),
        pack_length=settings.pack_length,
        packing=config.recipe.data.packing,
        global_batch_size=ranks.world_size,
        micro_batch_size=1,
        world_size=ranks.world_size,
        epochs=1,
        seed=config.recipe.train.seed,
    )
    pixels = PixelReader(processor.image_processor)
    return _batches(config, index, schedule, processor, pixels=pixels, rank=ranks.rank)


def _batches(
    config: StageRunConfig,
    index: ExampleIndex,
    schedule: Schedule,
    processor: Any,  # noqa: ANN401 - the model's processor
    *,
    pixels: PixelReader,
    rank: int,
) -> MicroBatches:
    return MicroBatches(
        index,
        schedule.of_rank(rank),
        pixels,
        sharing=schedule.sharing,
        image_token_id=processor.image_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
        packing=config.recipe.data.packing,
        fixed_shape=config.recipe.train.compile,
    )


def _lost_before(output_dir: Path) -> set[tuple[int, int]] | None:
    """Return source and item of what the run dropped for its images; None if it begins.

    Raises:
        DataError: an earlier version began the run and wrote down only their ids.
    """
    path = output_dir / DROPPED_FILE
    if not path.is_file():
        return None
    reasons = {reason.value for reason in IMAGE_DROPS}
    lost = [drop for _, drop in iter_jsonl(path) if drop["reason"] in reasons]
    if any("item" not in drop for drop in lost):
        raise DataError(
            f"an earlier version began this run, and what it dropped is told by id only: {path}. "
            "Begin it again with --no-resume."
        )
    return {(drop["source"], drop["item"]) for drop in lost}


def _cache_room(file: Path) -> int:
    """Return bytes for resized images: a mapped file on a full disk kills the process."""
    return min(_CACHE_BYTES, shutil.disk_usage(file.parent).free // 2)


def _pixels_file(output_dir: Path) -> Path:
    """Return where the ranks of this machine keep resized images."""
    return output_dir / f"{PIXELS_FILE}-{platform.node()}"


def clear_pixels(output_dir: Path) -> None:
    """Remove the resized images of a run."""
    for path in output_dir.glob(f"{PIXELS_FILE}*"):
        path.unlink(missing_ok=True)


def _sample_images(config: StageRunConfig, data: StageData) -> list[Image.Image]:
    """Return some of the data's own images, for a projector that starts from their statistics."""
    paths: set[Path] = set()
    for source in data.sources():
        for record in islice(source.records(), _CALIBRATION_POOL):
            if isinstance(record, InstructionRecord):
                paths.update(source.image_root / name for name in record.images)
    ordered = sorted(paths)
    random.Random(config.recipe.train.seed).shuffle(ordered)
    images: list[Image.Image] = []
    for path in ordered:
        if len(images) < _CALIBRATION_IMAGES and path.is_file():
            with suppress(DataError):  # it is dropped by name while indexing
                images.append(load_image(path))
    return images

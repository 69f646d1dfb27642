"""Records that share an image's tokens give what they give alone; no work is lost or doubled."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medllava.data.dataset import ExampleIndex, build_index
from medllava.data.packing import MicroBatches
from medllava.data.pixels import PixelReader
from medllava.data.prefix_sharing import Sharing, find_sharing
from medllava.data.schedule import build_schedule
from medllava.model.attention import choose_attention
from medllava.model.loaded import LoadedModel
from medllava.model.parts import build_model
from medllava.model.processor import num_image_tokens
from medllava.progress import SilentProgress
from medllava.recipe import Attention, load_recipe
from medllava.records import InstructionRecord, Stage, Turn

QUESTIONS = ("What is this?", "Which organ?", "Is it an MRI?", "In which plane is the slice?")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    attention = choose_attention(Attention.SEGMENTED, device="cpu")
    return build_model(load_recipe("debug").model, seed=0, attention=attention)


@pytest.fixture
def index(loaded: LoadedModel, tmp_path: Path) -> ExampleIndex:
    records = []
    for picture in range(6):
        pixels = np.random.default_rng(picture).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{picture}.png")
        for number, question in enumerate(QUESTIONS[: 1 + picture % 4]):
            turns = (
                Turn(role="user", content=f"<image>\n{question}"),
                Turn(role="assistant", content=f"answer {number} " * (1 + number)),
            )
            records.append(
                InstructionRecord(
                    record_id=f"{picture}-{number}",
                    images=(f"{picture}.png",),
                    turns=turns,
                    stage=Stage.INSTRUCT,
                )
            )
    return build_index(
        records,
        loaded.processor,
        image_root=tmp_path,
        image_tokens=num_image_tokens(loaded.processor),
        max_length=512,
        progress=SilentProgress(),
    )


def share(index: ExampleIndex, loaded: LoadedModel, most: int) -> Sharing:
    return find_sharing(index, image_token_id=loaded.processor.image_token_id, most=most)


def micro_batches(
    index: ExampleIndex, loaded: LoadedModel, most: int, *, batch: int = 100, packing: bool = True
) -> MicroBatches:
    sharing = share(index, loaded, most)
    schedule = build_schedule(
        sharing,
        pack_length=2048,
        packing=packing,
        global_batch_size=batch,
        micro_batch_size=batch,
        world_size=1,
        epochs=1,
        seed=0,
    )
    return MicroBatches(
        index,
        schedule.of_rank(0),
        PixelReader(loaded.processor.image_processor),
        sharing=sharing,
        image_token_id=loaded.processor.image_token_id,
        pad_token_id=loaded.processor.tokenizer.pad_token_id,
        packing=packing,
    )


def loss_and_gradients(
    loaded: LoadedModel, batches: MicroBatches
) -> tuple[float, list[torch.Tensor], int]:
    model = loaded.model.train()
    model.zero_grad()
    num_tokens = 0
    total = 0.0
    for number in range(len(batches)):
        batch = batches[number]
        num_tokens += sum(batch.pop("lengths"))
        num_items = (batch["labels"] != -100).sum()
        loss = model(**batch, use_cache=False, num_items_in_batch=1).loss
        loss.backward()
        total += float(loss.detach())
        assert num_items > 0
    return total, [p.grad.clone() for p in model.parameters() if p.grad is not None], num_tokens


def test_shared_images_change_neither_loss_nor_gradients(loaded, index):
    alone, alone_gradients, alone_tokens = loss_and_gradients(
        loaded, micro_batches(index, loaded, 1)
    )
    shared, shared_gradients, shared_tokens = loss_and_gradients(
        loaded, micro_batches(index, loaded, 3)
    )
    assert shared_tokens < 0.95 * alone_tokens  # this model has four tokens per image
    assert shared == pytest.approx(alone, rel=1e-6)
    for got, want in zip(shared_gradients, alone_gradients, strict=True):
        # Worst case measured: 1e-7. A branch that sees another moves gradients by 1e-3.
        assert torch.allclose(got, want, atol=1e-6, rtol=1e-4)


def test_an_image_is_read_once_for_the_records_that_share_it(loaded, index):
    batch = micro_batches(index, loaded, 4)[0]
    assert len(batch["pixel_values"]) == 6
    assert len(micro_batches(index, loaded, 1)[0]["pixel_values"]) == len(index)


@pytest.mark.parametrize("most", [1, 2, 4])
@pytest.mark.parametrize("packing", [True, False])
def test_every_record_is_used_once_in_steps_of_the_asked_size(loaded, index, most, packing):
    schedule = build_schedule(
        share(index, loaded, most if packing else 1),
        pack_length=2048,
        packing=packing,
        global_batch_size=5,
        micro_batch_size=1,
        world_size=1,
        epochs=2,
        seed=3,
    )
    sizes = [len(schedule.examples_of_step(step)) for step in range(schedule.num_steps)]
    assert set(sizes[:-1]) == {5}
    used = Counter(e for s in range(schedule.num_steps) for e in schedule.examples_of_step(s))
    assert set(used.values()) == {2}
    assert len(used) == len(index)


def test_bins_filled_over_a_whole_pass_hold_no_more_than_the_limit(loaded, index):
    sharing = share(index, loaded, 4)
    limit = int(index.lengths.max()) + 8
    schedule = build_schedule(
        sharing,
        pack_length=limit,
        packing=True,
        global_batch_size=12,
        micro_batch_size=1,
        world_size=1,
        epochs=1,
        seed=0,
    )
    packs = [pack for step in schedule.packs for micro in step[0] for pack in micro]
    assert all(sharing.size_of(pack) <= limit for pack in packs)
    assert sorted(e for pack in packs for e in pack) == list(range(len(index)))


def test_another_image_or_another_beginning_is_not_shared(loaded, index):
    sharing = share(index, loaded, 4)
    for first in range(len(index)):
        for second in range(len(index)):
            same_image = index.images_of(first) == index.images_of(second)
            assert sharing.branches_off(first, second) == same_image

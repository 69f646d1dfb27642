"""Training and answering on one GPU: what `medllava train` itself does, row by row.

    python tests/benchmarks/train_gpu.py                 # sizes that fill the GPU, under 10 minutes
    python tests/benchmarks/train_gpu.py --small         # tiny, on any machine, to see that it runs
    python tests/benchmarks/train_gpu.py --rows stage-1 engine

Random weights of the llava-med-v1.5 recipe, made on the device, and made-up records of LLaVA-Med's
lengths. The rows of a stage go through the library behind `medllava train` (plan, index, packs,
kernels, trainer; only the weights are put in its place): tokens/s and share of the GPU's dense bf16
peak after the first steps, which warm every shape up, and the peak of memory against what the plan
said. Beside them LLaVA's batch shape (2 records padded, gradient checkpointing, logits everywhere),
NeMo Automodel's setting (LoRA, packs of 4,096), the loss in float8 against bf16, how far packs are
from separate sequences in fp32, the engine's questions/s and a chat's first token. Each row is
printed as it is measured. Neither DeepSpeed nor flash-attn is needed.
"""

import argparse
import datetime
import gc
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from train_steps import (
    Records,
    add_images,
    describe,
    learn,
    make_records,
    packed_batch,
    padded_batch,
    seconds_of,
    train_step,
)
from transformers import AutoConfig, LlavaConfig, LlavaForConditionalGeneration

sys.path.insert(0, str(Path(__file__).parents[2]))
from medllava.data.conversation import user_turn
from medllava.errors import MedllavaError
from medllava.eval.ask.engine import Engine
from medllava.eval.ask.predict import Ask
from medllava.eval.config import DecodingConfig
from medllava.layout import INSTRUCTIONS_FILE, METRICS_FILE
from medllava.model.attention import choose_attention
from medllava.model.loaded import LoadedModel
from medllava.model.shapes import ModelShape, part_values, read_shape
from medllava.model.weightless_processor import read_processor
from medllava.progress import SilentProgress
from medllava.recipe import Attention, ModelConfig, load_recipe
from medllava.records import InstructionRecord, Stage, Turn
from medllava.store import JsonlWriter
from medllava.train import prepare
from medllava.train.config import FROM_PARTS, StageRunConfig
from medllava.train.dry_run import plan_stage
from medllava.train.planning.costs import GIB, compute_flops, find_gpu
from medllava.train.run import train_stage
from medllava.train.stages import Learning

MAX_LENGTH = 2048
WARM_UP, TIMED = 3, 6
"""Steps of a stage that are run first, and steps that count."""
ROOM_FOR_7B = 120 * GIB
RANDOM_PARTS = ["model.language_model.source=random", "model.vision_encoder.source=random"]
THREE_BILLION = [  # a 3B language model of Mistral's kind, for GPUs that 7B's state does not fit
    "model.language_model.config.hidden_size=3072",
    "model.language_model.config.intermediate_size=8192",
    "model.language_model.config.num_hidden_layers=28",
    "model.language_model.config.num_attention_heads=24",
]
ONE_BILLION = [
    "model.language_model.config.hidden_size=2048",
    "model.language_model.config.intermediate_size=5632",
    "model.language_model.config.num_hidden_layers=20",
    "model.language_model.config.num_attention_heads=16",
]
WIDTHS = (34, 10, 22, 10, 8, 20, 10)
HEADERS = ("what", "model", "how", "tokens/s", "MFU", "memory (plan)", "per step", "beside")


def show(*cells: str) -> None:
    """Print one row at once."""
    padded = [cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=False)]
    print("  ".join([*padded, *cells[len(WIDTHS) :]]).rstrip(), flush=True)


class EnoughError(Exception):
    """Ends a run before its model is written to disk."""


class Until(SilentProgress):
    """Ends a run after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left, self.is_training = steps, False

    def start(self, phase: str, *, total: int | None = None) -> None:
        self.is_training = phase.startswith("train")

    def advance(self, count: int = 1) -> None:
        self.left -= count if self.is_training else 0
        if self.left == 0:
            raise EnoughError


@dataclass
class Bench:
    """A machine and the sizes it is asked for."""

    device: str
    dtype: torch.dtype
    peak_flops: float
    is_small: bool
    folder: Path

    @property
    def recipe(self) -> str:
        return "debug" if self.is_small else "llava-med-v1.5"

    def sizes(self, *, stage: int) -> list[str]:
        """Return overrides of the recipe: random parts that fit the device."""
        if self.is_small:
            return []
        memory = torch.cuda.get_device_properties(0).total_memory
        return RANDOM_PARTS + (THREE_BILLION if stage > 1 and memory < ROOM_FOR_7B else [])

    def config(self, *, stage: int) -> ModelConfig:
        return load_recipe(self.recipe, overrides=self.sizes(stage=stage)).model

    def build(
        self, config: ModelConfig, *, attention: str, image_token_id: int | None = None
    ) -> LlavaForConditionalGeneration:
        """Make the native model with random weights, right on the device."""
        text = dict(part_values(config.language_model, key="model.language_model"))
        vision = dict(part_values(config.vision_encoder, key="model.vision_encoder"))
        text["vocab_size"] = -(-(text["vocab_size"] + 1) // 64) * 64
        values: dict[str, Any] = {
            "text_config": AutoConfig.for_model(text.pop("model_type"), **text),
            "vision_config": AutoConfig.for_model(vision.pop("model_type"), **vision),
            "vision_feature_layer": -2,
            "image_token_index": image_token_id or text["vocab_size"] - 1,
        }
        torch.manual_seed(0)
        with torch.device(self.device):
            return LlavaForConditionalGeneration._from_config(
                LlavaConfig(**values), dtype=self.dtype, attn_implementation=attention
            )

    def load(self, config: ModelConfig, *, attention: str) -> LoadedModel:
        """Make a model to train or to ask, with its processor."""
        processor = read_processor(config, init=FROM_PARTS)
        model = self.build(config, attention=attention, image_token_id=processor.image_token_id)
        return LoadedModel(model=model.eval(), processor=processor, source="random weights")

    @property
    def max_length(self) -> int:
        return 64 if self.is_small else MAX_LENGTH

    def records(self, shape: ModelShape, *, stage: int, count: int = 2_000) -> Records:
        return make_records(
            count,
            stage=stage,
            num_image_tokens=shape.num_image_tokens,
            max_length=self.max_length,
        )

    def batch(self, make: Callable[..., Any], records: Records, model: Any) -> dict[str, Any]:
        made = make(
            records,
            image_token_id=model.config.image_token_id,
            vocab_size=model.config.text_config.vocab_size,
        )
        return add_images(
            made,
            len(records.lengths),
            image_size=model.config.vision_config.image_size,
            dtype=self.dtype,
            device=self.device,
        )

    def memory(self) -> float:
        """Return the peak in GiB since `clear`; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() / GIB if self.device != "cpu" else 0.0

    def clear(self) -> None:
        gc.collect()
        if self.device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def share(self, flops_per_second: float) -> str:
        return f"{flops_per_second / self.peak_flops:.1%}" if self.peak_flops else "-"

    @property
    def has_float8(self) -> bool:
        return self.device != "cpu" and torch.cuda.get_device_capability() >= (8, 9)


def learning_of(stage: int) -> Learning:
    """Return who learns in a stage of the shipped recipe."""
    which = list(Stage)[stage - 1]
    return Learning.of(which, load_recipe("llava-med-v1.5").stage[which])


def write_records(bench: Bench, *, stage: int, shape: ModelShape) -> Path:
    """Write records of LLaVA-Med's lengths; a digit is a token of the tiny tokenizer."""
    folder = bench.folder / f"data-{stage}"
    if folder.is_dir():
        return folder
    folder.mkdir()
    records = bench.records(shape, stage=stage, count=48 if bench.is_small else 600)
    pictures, digits = 32, random.Random(0)
    for number in range(pictures):
        _picture(folder / f"{number}.png", seed=number)
    with JsonlWriter(folder / INSTRUCTIONS_FILE) as writer:
        pairs = zip(records.lengths.tolist(), records.supervised.tolist(), strict=True)
        for number, (length, supervised) in enumerate(pairs):
            asked = max(1, length - shape.num_image_tokens - supervised - 16)
            question, answer = (
                "".join(digits.choices("0123456789", k=count)) for count in (asked, supervised)
            )
            record = InstructionRecord(
                record_id=str(number),
                images=(f"{number % pictures}.png",),
                turns=(
                    user_turn(question, num_images=1),
                    Turn(role="assistant", content=answer),
                ),
                stage=list(Stage)[stage - 1],
                license="CC0-1.0",
            )
            writer.write(record.to_json())
    return folder


def _picture(path: Path, *, seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (336, 336, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


@dataclass(frozen=True)
class Ran:
    """What a run of a stage showed."""

    steps: list[dict[str, Any]]
    """Records of the steps that count."""
    losses: list[float]
    plan_gib: float
    how: str


def run_stage(
    bench: Bench, *, stage: int, overrides: Sequence[str] = (), num_steps: int = WARM_UP + TIMED
) -> Ran:
    """Train through the library behind `medllava train`, up to where the model would be saved."""
    sizes = [*bench.sizes(stage=stage), *overrides]
    name = list(Stage)[stage - 1].value
    batch = 4 if bench.is_small else 64
    fixed = [f"stage.{name}.global_batch_size={batch}", "checkpoint.every_steps=100000"]
    recipe = load_recipe(bench.recipe, overrides=[*fixed, *sizes])
    data = write_records(bench, stage=stage, shape=read_shape(recipe.model))
    config = StageRunConfig(
        recipe=recipe,
        stage=Stage(name),
        data=str(data),
        output_dir=Path(tempfile.mkdtemp(dir=bench.folder)),
        max_steps=num_steps,
    )
    plan = plan_stage(config, world_size=1, progress=SilentProgress())
    planned = plan.here or plan.chosen
    bench.clear()
    with suppress(EnoughError):
        train_stage(config, progress=Until(num_steps))
    lines = [json.loads(line) for line in (config.output_dir / METRICS_FILE).open()]
    settings = planned.settings
    how = f"{settings.precision.value}, packs {settings.pack_length:,}"
    how += ", ckpt" if settings.gradient_checkpointing else ""
    return Ran(lines[WARM_UP:], [x["loss"] for x in lines], planned.total_bytes / GIB, how)


def stage_row(bench: Bench, *, stage: int, what: str, overrides: Sequence[str] = ()) -> None:
    """One row of a stage, through the trainer."""
    ran = run_stage(bench, stage=stage, overrides=overrides)
    seconds = sum(step["seconds"] for step in ran.steps)
    flops = sum(step["tflops_per_device"] * step["seconds"] for step in ran.steps) * 1e12
    peak = max(step["memory_gib"] for step in ran.steps)
    recipe = load_recipe(bench.recipe, overrides=[*bench.sizes(stage=stage), *overrides])
    show(
        what,
        f"{read_shape(recipe.model).num_parameters / 1e9:.2f} B",
        ran.how,
        f"{sum(step['tokens'] for step in ran.steps) / seconds:,.0f}",
        bench.share(flops / seconds),
        f"{peak:.1f} ({ran.plan_gib:.1f}) GiB",
        f"{statistics.median(step['seconds'] for step in ran.steps) * 1000:,.0f} ms",
        f"loss {ran.losses[-1]:.3f}",
    )


def float8_rows(bench: Bench, *, stage: int) -> None:
    """The same stage with float8 products."""
    if bench.has_float8:
        overrides = ["train.float8=true", "train.compile=true"]
        stage_row(bench, stage=stage, what=f"stage {stage}, float8", overrides=overrides)
    else:
        show(f"stage {stage}, float8", *"------", "not run: no GPU with float8")


def reference_row(bench: Bench, *, stage: int) -> None:
    """Time LLaVA's shape: a bare step, so that its trainer costs it nothing."""
    config = bench.config(stage=stage)
    shape, learning = read_shape(config), learning_of(stage)
    records = bench.records(shape, stage=stage)
    made = [records.take([2 * i, 2 * i + 1]) for i in range(TIMED)]
    model = bench.build(config, attention="sdpa")
    optimizer = torch.optim.AdamW(learn(model, stage=stage), lr=1e-5, fused=True)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    model.train()
    batches = [bench.batch(padded_batch, group, model) for group in made]
    bench.clear()
    for batch in batches:
        train_step(model, optimizer, [batch])
    times = [
        seconds_of(lambda b=b: train_step(model, optimizer, [b]), device=bench.device)
        for b in batches
    ]
    flops = sum(compute_flops(shape, learning, group.work) for group in made)
    show(
        f"stage {stage}, LLaVA's shape",
        f"{shape.num_parameters / 1e9:.2f} B",
        "2 padded, ckpt, sdpa",
        f"{sum(group.work.num_tokens for group in made) / sum(times):,.0f}",
        bench.share(flops / sum(times)),
        f"{bench.memory():.1f} GiB",
        f"{statistics.median(times) * 1000:,.0f} ms",
    )


def loss_row(bench: Bench) -> None:
    """Train a 1B for 200 steps in bf16 and in float8, and compare where the losses end."""
    what = "loss, float8 - bf16, 200 steps"
    if not bench.has_float8:
        show(what, *"------", "not run: no GPU with float8")
        return
    small = [*ONE_BILLION, "stage.instruct.global_batch_size=16"]
    ends = {}
    for kind in ("false", "true"):
        ran = run_stage(bench, stage=2, overrides=[*small, f"train.float8={kind}"], num_steps=200)
        ends[kind] = statistics.mean(ran.losses[-20:])
    gap = ends["true"] - ends["false"]
    show(what, "1 B", "mean of the last 20", *"----", f"{gap:+.4f} of {ends['false']:.4f}")


def parity_row(bench: Bench) -> None:
    """Compare packed logits in the run's precision with separate sequences in fp32."""
    wide = ["model.language_model.config.hidden_size=128"]  # heads of 32, which the kernels take
    config = load_recipe("debug", overrides=wide).model
    shape = read_shape(config)
    records = bench.records(shape, stage=2, count=6)
    kernel = choose_attention(Attention.AUTO, device=bench.device)
    model = bench.build(config, attention=kernel).eval()
    packed = bench.batch(packed_batch, records, model)
    for name in ("labels", "shift_labels", "logits_to_keep"):
        packed.pop(name)
    with torch.no_grad():
        together = model(**packed, use_cache=False).logits[0].float()
        exact = model.float()
        exact.set_attn_implementation("eager")
        separate, start = [], 0
        for number, length in enumerate(records.lengths.tolist()):
            ids = packed["input_ids"][:, start : start + length]
            pixels = packed["pixel_values"][number : number + 1].float()
            separate.append(exact(input_ids=ids, pixel_values=pixels, use_cache=False).logits[0])
            start += length
    alone = torch.cat(separate)
    gap = float((together - alone).abs().max() / alone.abs().max())
    name = str(bench.dtype).removeprefix("torch.")
    show(f"parity, {name} packs", "-", kernel, *"----", f"{gap:.1e} of the largest")


def engine_row(bench: Bench, *, num_new: int) -> None:
    """Answer many questions about many images, as `medllava eval` does."""
    config = bench.config(stage=1)
    kernel = choose_attention(Attention.AUTO, device=bench.device)
    loaded = bench.load(config, attention=kernel)
    num_images, each = (3, 4) if bench.is_small else (96, 11)
    folder = bench.folder / "asked"
    folder.mkdir(exist_ok=True)
    asks = [
        Ask(id=f"{i}-{j}", condition="real", seed=0, image=path, text=f"What is seen at {j}?")
        for i in range(num_images)
        for path in [_picture(folder / f"{i}.png", seed=i)]
        for j in range(each)
    ]
    bench.clear()
    engine = Engine(loaded, DecodingConfig(max_new_tokens=num_new))
    list(engine.answer(asks[:each], is_done=lambda _: False))
    started = time.perf_counter()
    replies = sum(len(batch) for batch in engine.answer(asks, is_done=lambda _: False))
    seconds = time.perf_counter() - started
    show(
        f"engine, {num_new} new tokens",
        f"{read_shape(config).num_parameters / 1e9:.2f} B",
        kernel,
        "-",
        "-",
        f"{bench.memory():.1f} GiB",
        "-",
        f"{replies / seconds:,.1f} questions/s, {replies} about {num_images} images",
    )


def chat_row(bench: Bench) -> None:
    """Delay of the first token and speed of the next ones, one image, one question."""
    config = bench.config(stage=1)
    shape = read_shape(config)
    kernel = choose_attention(Attention.AUTO, device=bench.device)
    model = bench.build(config, attention=kernel).eval()
    records = bench.records(shape, stage=1, count=1)
    batch = bench.batch(padded_batch, records, model)
    batch.pop("labels")
    bench.clear()

    def generate(count: int) -> None:
        model.generate(
            **batch, min_new_tokens=count, max_new_tokens=count, do_sample=False, pad_token_id=0
        )

    generate(2)
    first = statistics.median(
        seconds_of(lambda: generate(1), device=bench.device) for _ in range(5)
    )
    longer = seconds_of(lambda: generate(33), device=bench.device)
    show(
        "chat, first token",
        f"{shape.num_parameters / 1e9:.2f} B",
        kernel,
        f"{32 / max(longer - first, 1e-9):,.1f} new",
        "-",
        f"{bench.memory():.1f} GiB",
        f"{first * 1000:,.0f} ms",
    )


ROWS: dict[str, Callable[[Bench], None]] = {
    "stage-1": lambda bench: stage_row(bench, stage=1, what="stage 1, medllava train"),
    "stage-1-float8": lambda bench: float8_rows(bench, stage=1),
    "stage-1-reference": lambda bench: reference_row(bench, stage=1),
    "stage-2": lambda bench: stage_row(bench, stage=2, what="stage 2, medllava train"),
    "stage-2-float8": lambda bench: float8_rows(bench, stage=2),
    "stage-2-reference": lambda bench: reference_row(bench, stage=2),
    "nemo": lambda bench: stage_row(
        bench,
        stage=2,
        what="stage 2, LoRA (NeMo's setting)",
        overrides=[
            "stage.instruct.adapter=lora",
            *([] if bench.is_small else ["data.pack_length=4096"]),
        ],
    ),
    "loss": loss_row,
    "parity": parity_row,
    "engine": lambda bench: engine_row(bench, num_new=8),
    "engine-64": lambda bench: engine_row(bench, num_new=64),
    "chat": chat_row,
}


def measure(bench: Bench, names: Sequence[str]) -> Iterator[str]:
    """Measure rows one after the other; yields the names of those that could not be."""
    if not bench.is_small:  # 7B of random weights is made on the device, in seconds
        prepare._load_source = lambda config, *_, **__: bench.load(
            config.recipe.model, attention=choose_attention(Attention.AUTO, device=bench.device)
        )
    for name in names:
        try:
            ROWS[name](bench)
        except (MedllavaError, torch.OutOfMemoryError) as error:
            show(name, *"------", f"failed: {error}"[:200])
            yield name
        bench.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="tiny sizes, on the CPU if need be")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS), metavar="ROW")
    options = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not options.small:
        sys.exit("no GPU here; --small runs the same code on the CPU")
    if not has_gpu:
        torch.set_num_threads(1)
    gpu = None
    if has_gpu:
        properties = torch.cuda.get_device_properties(0)
        gpu = find_gpu(properties.name, memory_bytes=properties.total_memory)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="medllava-") as folder:
        bench = Bench(
            device="cuda" if has_gpu else "cpu",
            dtype=torch.bfloat16 if has_gpu else torch.float32,
            peak_flops=gpu.peak_flops if gpu else 0.0,
            is_small=options.small,
            folder=Path(folder),
        )
        name = torch.cuda.get_device_name() if has_gpu else "CPU"
        print(
            f"{name}, torch {torch.__version__}, {datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}"
        )
        print(f"model: {describe(read_shape(bench.config(stage=1)))}")
        show(*HEADERS)
        failed = list(measure(bench, options.rows))
    print(f"{time.perf_counter() - started:,.0f} s")
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()

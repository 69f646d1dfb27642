"""Training and answering on one GPU, as one table.

    python tests/benchmarks/train_gpu.py             # sizes that fill the GPU
    python tests/benchmarks/train_gpu.py --small     # tiny, on any machine, to see that it runs

Random weights of the llava-med-v1.5 recipe. Rows: stage 1 and stage 2 in packs (tokens/s, share of
the GPU's dense bf16 peak, memory), the reference's batch shape beside them (2 records padded,
gradient checkpointing, logits everywhere), one stage-2 step under DeepSpeed ZeRO-2, how far the
packed kernel in bf16 is from separate sequences in fp32, and the delay of a chat's first token.
"""

import argparse
import datetime
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from train_steps import (
    Records,
    add_images,
    describe,
    learn,
    make_records,
    pack_records,
    packed_batch,
    padded_batch,
    seconds_of,
    text_table,
    train_step,
)
from transformers import AutoConfig, LlavaConfig, LlavaForConditionalGeneration

sys.path.insert(0, str(Path(__file__).parents[2]))
from medllava.model.attention import choose_attention
from medllava.model.shapes import ModelShape, part_values, read_shape
from medllava.recipe import Attention, ModelConfig, load_recipe
from medllava.records import Stage
from medllava.train.planning.costs import GIB, compute_flops, find_gpu
from medllava.train.stages import Learning

MAX_LENGTH = 2048
STEPS = 5
ROOM_FOR_7B = 120 * GIB
THREE_BILLION = [  # a 3B language model of Mistral's kind, for GPUs that 7B's state does not fit
    "model.language_model.config.hidden_size=3072",
    "model.language_model.config.intermediate_size=8192",
    "model.language_model.config.num_hidden_layers=28",
    "model.language_model.config.num_attention_heads=24",
]


@dataclass
class Bench:
    """A machine and the sizes it is asked for."""

    device: str
    dtype: torch.dtype
    peak_flops: float
    is_small: bool

    def config(self, *, stage: int) -> ModelConfig:
        if self.is_small:
            return load_recipe("debug").model
        memory = torch.cuda.get_device_properties(0).total_memory
        smaller = THREE_BILLION if stage > 1 and memory < ROOM_FOR_7B else []
        return load_recipe("llava-med-v1.5", overrides=smaller).model

    def build(self, config: ModelConfig, *, attention: str) -> LlavaForConditionalGeneration:
        """Make the native model with random weights, right on the device."""
        text = dict(part_values(config.language_model, key="model.language_model"))
        vision = dict(part_values(config.vision_encoder, key="model.vision_encoder"))
        text["vocab_size"] = -(-(text["vocab_size"] + 1) // 64) * 64
        values: dict[str, Any] = {
            "text_config": AutoConfig.for_model(text.pop("model_type"), **text),
            "vision_config": AutoConfig.for_model(vision.pop("model_type"), **vision),
            "vision_feature_layer": -2,
            "image_token_index": text["vocab_size"] - 1,
        }
        torch.manual_seed(0)
        with torch.device(self.device):
            return LlavaForConditionalGeneration._from_config(
                LlavaConfig(**values), dtype=self.dtype, attn_implementation=attention
            )

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

    def memory(self) -> str:
        if self.device == "cpu":
            return "-"
        return f"{torch.cuda.max_memory_allocated() / GIB:.1f} GiB"

    def clear(self) -> None:
        if self.device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def learning_of(stage: int) -> Learning:
    """Return who learns in a stage of the shipped recipe."""
    which = list(Stage)[stage - 1]
    return Learning.of(which, load_recipe("llava-med-v1.5").stage[which])


def train_rows(bench: Bench, *, stage: int) -> list[list[str]]:
    """Time packs and the reference's batches on one model."""
    config = bench.config(stage=stage)
    shape = read_shape(config)
    learning = learning_of(stage)
    records = bench.records(shape, stage=stage)
    groups = {
        "packed": [
            records.take(p) for p in pack_records(records, max_length=bench.max_length)[:STEPS]
        ],
        "reference": [records.take([2 * i, 2 * i + 1]) for i in range(STEPS)],
    }
    kernel = choose_attention(Attention.AUTO, device=bench.device)
    model = bench.build(config, attention=kernel)
    optimizer = torch.optim.AdamW(learn(model, stage=stage), lr=1e-5, fused=True)
    rows, speeds = [], {}
    for way, made in groups.items():
        model.set_attn_implementation(kernel if way == "packed" else "sdpa")
        if way == "reference":
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        model.train()
        make = packed_batch if way == "packed" else padded_batch
        batches = [bench.batch(make, group, model) for group in made]
        bench.clear()
        train_step(model, optimizer, batches[:1])
        times = [
            seconds_of(lambda b=b: train_step(model, optimizer, [b]), device=bench.device)
            for b in batches
        ]
        tokens = sum(group.work.num_tokens for group in made)
        flops = sum(compute_flops(shape, learning, group.work) for group in made)
        speeds[way] = tokens / sum(times)
        rows.append(
            [
                f"stage {stage}, {way}",
                f"{shape.num_parameters / 1e9:.2f} B",
                kernel if way == "packed" else "sdpa, checkpointing",
                f"{speeds[way]:,.0f}",
                f"{flops / sum(times) / bench.peak_flops:.1%}" if bench.peak_flops else "-",
                bench.memory(),
                f"{statistics.median(times) * 1000:,.0f} ms",
            ]
        )
    rows[0].append(f"{speeds['packed'] / speeds['reference']:.2f} x")
    rows[1].append("1.00 x")
    return rows


def parity_row(bench: Bench) -> list[str]:
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
    return [f"parity, {name} packs", "-", kernel, "-", "-", "-", "-", f"{gap:.1e} of the largest"]


def zero_row(bench: Bench) -> list[str]:
    """One process under DeepSpeed ZeRO-2, stage 2."""
    import deepspeed

    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    smaller = ["model.language_model.config.num_hidden_layers=8"]
    config = load_recipe("debug" if bench.is_small else "llava-med-v1.5", overrides=smaller).model
    shape = read_shape(config)
    kernel = choose_attention(Attention.AUTO, device=bench.device)
    model = bench.build(config, attention=kernel)
    learning = learn(model, stage=2)
    records = bench.records(shape, stage=2)
    made = [records.take(p) for p in pack_records(records, max_length=bench.max_length)[:STEPS]]
    batches = [bench.batch(packed_batch, group, model) for group in made]
    bench.clear()
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=learning,
        optimizer=torch.optim.AdamW(learning, lr=1e-5),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "zero_optimization": {"stage": 2},
            "bf16": {"enabled": bench.dtype is torch.bfloat16},
            "zero_allow_untested_optimizer": True,
        },
    )

    def step(batch: dict[str, Any]) -> None:
        engine.backward(engine(**batch, use_cache=False).loss)
        engine.step()

    step(batches[0])
    times = [seconds_of(lambda b=b: step(b), device=bench.device) for b in batches]
    tokens = sum(group.work.num_tokens for group in made)
    flops = sum(compute_flops(shape, learning_of(2), g.work) for g in made)
    return [
        "stage 2, ZeRO-2, 8 layers",
        f"{shape.num_parameters / 1e9:.2f} B",
        kernel,
        f"{tokens / sum(times):,.0f}",
        f"{flops / sum(times) / bench.peak_flops:.1%}" if bench.peak_flops else "-",
        bench.memory(),
        f"{statistics.median(times) * 1000:,.0f} ms",
        "-",
    ]


def chat_row(bench: Bench) -> list[str]:
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
    return [
        "chat, first token",
        f"{shape.num_parameters / 1e9:.2f} B",
        kernel,
        f"{32 / max(longer - first, 1e-9):,.1f} new",
        "-",
        bench.memory(),
        f"{first * 1000:,.0f} ms",
        "-",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="tiny sizes, on the CPU if need be")
    options = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not options.small:
        sys.exit("no GPU here; --small runs the same code on the CPU")
    torch.set_num_threads(1)
    gpu = None
    if has_gpu:
        properties = torch.cuda.get_device_properties(0)
        gpu = find_gpu(properties.name, memory_bytes=properties.total_memory)
    bench = Bench(
        device="cuda" if has_gpu else "cpu",
        dtype=torch.bfloat16 if has_gpu else torch.float32,
        peak_flops=gpu.peak_flops if gpu else 0.0,
        is_small=options.small,
    )
    name = torch.cuda.get_device_name() if has_gpu else "CPU"
    print(f"{name}, torch {torch.__version__}, {datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}")
    print(f"model: {describe(read_shape(bench.config(stage=1)))}")
    rows = [*train_rows(bench, stage=1), *train_rows(bench, stage=2)]
    rows += [parity_row(bench), chat_row(bench), zero_row(bench)]
    headers = ["what", "model", "attention", "tokens/s", "MFU", "memory", "per step", "ratio"]
    print(text_table(headers, rows))


if __name__ == "__main__":
    main()

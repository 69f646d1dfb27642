"""Packed training against padded training on the CPU, in one run.

    python tests/benchmarks/train_cpu.py [--records 32] [--batch 16] [--max-length 2048]

A LLaVA of 36 million parameters (6 layers of 384, vocabulary 32,000, 576 image tokens) trains on
the same records in both ways: packs with one causal attention call per segment and logits only
where labels are; batches of 16 padded to their longest with logits everywhere, as they come and
grouped by length over all records, as LLaVA groups them. Timings of the ways alternate, so that a
busy machine disturbs all alike; the ratio is the result.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch
from train_steps import (
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

sys.path.insert(0, str(Path(__file__).parents[2]))
from medllava.model.attention import choose_attention
from medllava.model.parts import build_model
from medllava.model.shapes import read_shape
from medllava.recipe import Attention, load_recipe

SIZES = {
    "model.language_model.config.vocab_size": 32_000,
    "model.language_model.config.hidden_size": 384,
    "model.language_model.config.intermediate_size": 1024,
    "model.language_model.config.num_hidden_layers": 6,
    "model.language_model.config.num_attention_heads": 6,
    "model.language_model.config.num_key_value_heads": 6,
    "model.language_model.config.max_position_embeddings": 8192,
    "model.vision_encoder.config.image_size": 336,
}
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=2 * BATCH)
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--stage", type=int, choices=(1, 2), default=2)
    parser.add_argument("--batch", type=int, default=BATCH, help="records of a padded batch")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    recipe = load_recipe("debug", overrides=[f"{key}={value}" for key, value in SIZES.items()])
    shape = read_shape(recipe.model)
    model = build_model(recipe.model, seed=0).model
    optimizer = torch.optim.AdamW(learn(model, stage=options.stage), lr=1e-4)
    vocabulary = {
        "image_token_id": model.config.image_token_id,
        "vocab_size": shape.vocab_size,
    }
    records = make_records(
        options.records,
        stage=options.stage,
        num_image_tokens=shape.num_image_tokens,
        max_length=options.max_length,
    )
    packs = pack_records(records, max_length=options.max_length)

    def cut(order: list[int]) -> list[list[int]]:
        return [order[i : i + options.batch] for i in range(0, len(order), options.batch)]

    chunks = cut(list(range(options.records)))
    grouped = cut(sorted(range(options.records), key=lambda i: -int(records.lengths[i])))

    def batches(make: object, groups: object) -> list[dict[str, torch.Tensor]]:
        return [
            add_images(
                make(records.take(list(group)), **vocabulary),
                len(group),
                image_size=336,
                dtype=torch.float32,
                device="cpu",
            )
            for group in groups
        ]

    # name, attention, batches, optimizer steps: the reference steps after every padded batch.
    segmented = choose_attention(Attention.SEGMENTED, device="cpu")
    packed, padded = batches(packed_batch, packs), batches(padded_batch, chunks)
    by_length = batches(padded_batch, grouped)
    ways = {
        "packed, segmented, sparse logits": (segmented, [packed]),
        "packed, block-masked sdpa": ("sdpa", [packed]),
        "padded to longest, full logits": ("sdpa", [[batch] for batch in padded]),
        "padded, grouped by length": ("sdpa", [[batch] for batch in by_length]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, (attention, steps) in ways.items():
            model.set_attn_implementation(attention)
            run = lambda steps=steps: [train_step(model, optimizer, step) for step in steps]  # noqa: E731
            seconds[name].append(seconds_of(run, device="cpu"))

    real = records.work.num_tokens
    baseline = statistics.median(seconds["padded to longest, full logits"])
    positions = {
        name: sum(b["input_ids"].numel() for step in steps for b in step)
        for name, (_, steps) in ways.items()
    }
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        rows.append(
            [
                name,
                f"{real / median:,.0f}",
                f"{baseline / median:.2f}",
                f"{real / positions[name]:.1%}",
                f"{median:.1f}",
            ]
        )
    many = make_records(
        20_000,
        stage=options.stage,
        num_image_tokens=shape.num_image_tokens,
        max_length=options.max_length,
        seed=1,
    )
    bins = pack_records(many, max_length=options.max_length)
    fill = many.work.num_tokens / (len(bins) * options.max_length)
    print(
        f"{describe(shape)}; stage {options.stage}, {options.records} records, "
        f"{real:,} real tokens, packs of {options.max_length:,}, {options.threads} thread(s)"
    )
    print(text_table(["way", "real tokens/s", "ratio", "real share", "seconds"], rows))
    print(f"fill of packs over 20,000 records: {fill:.2%}")


if __name__ == "__main__":
    main()

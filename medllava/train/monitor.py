"""What a run tells while it goes: one record per step, written first to `metrics.jsonl`.

Records are plain numbers: loss, gradient norm, learning rate, tokens per second, the share of real
tokens, the time spent waiting for data, memory. A resumed run cuts the records after its
checkpoint, so that the file reads as if nothing had happened.
"""

import json
import logging
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medllava.layout import METRICS_FILE
from medllava.model.shapes import ModelShape
from medllava.page import render_lines, render_page, render_table
from medllava.store import JsonlWriter, iter_jsonl, write_text
from medllava.train.planning.costs import Workload, compute_flops
from medllava.train.ranks import Ranks
from medllava.train.stages import Learning

_logger = logging.getLogger(__name__)
_KIB = 1024
_NO_CURVES: Mapping[str, Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """What the meter needs to tell how much of the hardware is used."""

    shape: ModelShape
    learning: Learning
    peak_flops: float | None
    """Of one device; None where it is not known."""


class StepMeter:
    """Adds up tokens and waiting time between two optimizer steps of one rank."""

    def __init__(self, arithmetic: Arithmetic | None) -> None:
        """Start the clock."""
        self.arithmetic = arithmetic
        self._start()

    def _start(self) -> None:
        self._started = time.perf_counter()
        self._computed = 0
        self._real = 0
        self._squares = 0
        self._supervised = 0
        self._images = 0
        self._waited = 0.0
        self._masked = 0

    def add_masked(self, masked: Mapping[str, str]) -> None:
        """Count records whose image can no longer be read, and name them in the log."""
        for record_id, why in masked.items():
            _logger.warning("nothing is learned from record %s: %s", record_id, why)
        self._masked += len(masked)

    def add_batch(self, batch: dict[str, Any], *, lengths: Sequence[int]) -> None:
        """Count one micro-batch, whose examples have these lengths."""
        self._computed += batch["input_ids"].numel()
        self._real += sum(lengths)
        self._squares += sum(length * length for length in lengths)
        self._supervised += int((batch["shift_labels"] >= 0).sum())
        self._images += batch["pixel_values"].shape[0]

    def add_wait(self, seconds: float) -> None:
        """Count time spent waiting for the loader."""
        self._waited += seconds

    def finish_step(self, ranks: Ranks) -> dict[str, float]:
        """Return the figures of the step over all ranks, and start the next one."""
        seconds = time.perf_counter() - self._started
        totals = [self._computed, self._real, self._squares, self._supervised, self._images]
        computed, real, squares, supervised, images, waited, masked = ranks.total(
            [*totals, self._waited, self._masked]
        )
        work = Workload(
            num_tokens=int(real),
            num_supervised=int(supervised),
            num_images=int(images),
            sum_squared_lengths=squares,
        )
        figures = {
            "seconds": seconds,
            "tokens": work.num_tokens,
            "supervised_tokens": work.num_supervised,
            "images": work.num_images,
            **({"masked_records": int(masked)} if masked else {}),
            "tokens_per_second": real / seconds,
            "real_share": real / max(computed, 1),
            "loader_wait_share": waited / seconds / ranks.world_size,
            "memory_gib": _memory_bytes() / 2**30,
            **self._speed(work, seconds * ranks.world_size),
        }
        self._start()
        return figures

    def _speed(self, work: Workload, device_seconds: float) -> dict[str, float]:
        """Return model FLOPs per second and device, and their share of its peak (MFU)."""
        if self.arithmetic is None:
            return {}
        known = self.arithmetic
        speed = compute_flops(known.shape, known.learning, work) / device_seconds
        mfu = {"mfu": speed / known.peak_flops} if known.peak_flops else {}
        return {"tflops_per_device": speed / 1e12, **mfu}


class MetricsFile:
    """`metrics.jsonl` of one run."""

    def __init__(self, path: Path, *, after_step: int) -> None:
        """Open for the steps after `after_step`, cutting what an undone stretch wrote.

        Args:
            path: of the file.
            after_step: last step whose record stays; 0 starts an empty file.
        """
        kept = [line for line in read_metrics(path) if line["step"] <= after_step]
        write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
        self._writer = JsonlWriter(path)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record."""
        self._writer.write(record)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics file, none if there is no file."""
    if not path.exists():
        return []
    return [line for _, line in iter_jsonl(path, allow_torn_tail=True)]


def summarize_metrics(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the totals of a run from its records, resumed stretches included."""
    steps = [record for record in records if "loss" in record]
    seconds = sum(record["seconds"] for record in steps)
    tokens = sum(record["tokens"] for record in steps)
    masked = sum(record.get("masked_records", 0) for record in steps)
    held_out = [r["validation_loss"] for r in records if "validation_loss" in r]
    return {
        "tokens": tokens,
        "supervised_tokens": sum(record["supervised_tokens"] for record in steps),
        "seconds": round(seconds, 1),
        "tokens_per_second": tokens / seconds if seconds else 0.0,
        "loss_first": steps[0]["loss"] if steps else 0.0,
        "loss_last": steps[-1]["loss"] if steps else 0.0,
        **({"validation_loss": held_out[-1]} if held_out else {}),
        **({"masked_records": masked} if masked else {}),
    }


def write_report(
    path: Path,
    *,
    title: str,
    subtitle: str,
    facts: dict[str, Any],
    more_curves: Mapping[str, Mapping[str, str]] = _NO_CURVES,
) -> None:
    """Write `report.html` beside the metrics it draws.

    Args:
        path: of the page; `metrics.jsonl` is in the same folder.
        title: plain text.
        subtitle: plain text.
        facts: name to value, for the table.
        more_curves: title of a drawing to its curves, each a label and its name in the records.
    """
    records = read_metrics(path.with_name(METRICS_FILE))
    steps = [r for r in records if "loss" in r]
    curves = {"training loss": _points(steps, "loss")}
    held_out = _points(records, "validation_loss")
    if held_out:
        curves["held-out loss"] = held_out
    drawn = {
        title: {label: _points(records, name) for label, name in names.items()}
        for title, names in more_curves.items()
    }
    sections = [
        *(
            (title, render_lines({k: v for k, v in lines.items() if v}, x_label="step", y_label=""))
            for title, lines in drawn.items()
            if any(lines.values())
        ),
        ("Loss", render_lines(curves, x_label="step", y_label="loss")),
        (
            "Learning rate",
            render_lines(
                {"learning rate": _points(steps, "learning_rate")}, x_label="step", y_label="rate"
            ),
        ),
        (
            "Speed",
            render_lines(
                {"tokens per second": _points(steps, "tokens_per_second")},
                x_label="step",
                y_label="tokens/s",
            ),
        ),
        ("Facts", render_table(["", "value"], list(_flat(facts)))),
    ]
    write_text(path, render_page(title, subtitle=subtitle, sections=sections))


def _points(records: list[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(r["step"], r[name]) for r in records if r.get(name) is not None]


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            yield from _flat(value, f"{label}: ")
        else:
            yield label, value


def _memory_bytes() -> int:
    """Return the peak: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB

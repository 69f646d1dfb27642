"""What a run would take, before anything is sent: requests, tokens, dollars, hours.

Reads every figure and builds every request, so the counts are exact; tokens are estimates.
"""

from typing import Any

from medllava.instruct.config import GenerateConfig
from medllava.instruct.conversations import UNKNOWN, FigureQueue
from medllava.instruct.prompts import USUAL_REPLY_TOKENS
from medllava.instruct.selection import RejectReason, Selection
from medllava.instruct.teacher import LEDGER, teacher_price
from medllava.llm.ledger import Ledger
from medllava.llm.payload import request_key
from medllava.llm.tokens import estimate_tokens, text_counted_by
from medllava.progress import Progress
from medllava.records import StepSummary

_SECONDS_PER_REPLY = 10.0
"""How long a hosted model takes for one reply, to judge what concurrency alone allows."""
_BATCH_HOURS = 24.0


def estimate_run(
    config: GenerateConfig, progress: Progress, *, reject_reason: RejectReason
) -> StepSummary:
    """Count what a run of a language model would send; send nothing, write nothing.

    Replies that the output folder's ledger already holds are not counted.
    """
    price = teacher_price(config, config.teacher)
    selection = Selection(config, reject_reason)
    queue = FigureQueue(config, selection.why_not, selection.next_round({}) or ())
    path = config.output_dir / LEDGER
    ledger = Ledger(path) if path.exists() else None
    requests = known = tokens_in = most_out = 0
    progress.start("counting", total=config.limit)
    for request in queue.requests():
        progress.advance()
        if ledger and ledger.find(request_key(config.teacher, request)):
            known += 1
            continue
        requests += 1
        tokens_in += estimate_tokens(request, config.teacher)
        most_out += request.max_new_tokens
    if ledger:
        ledger.close()
    tokens_out = requests * USUAL_REPLY_TOKENS
    counts: dict[str, int | float] = {
        "requests": requests,
        "already_answered": known,
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "most_output_tokens": most_out,
        "hours": round(_hours(config, requests, tokens_in + most_out), 3),
    }
    counted_by = text_counted_by(config.teacher)
    details: dict[str, Any] = {
        "dry_run": True,
        "text_counted_by": counted_by,
        "cost_usd": UNKNOWN,
        "prices_of": UNKNOWN,
    }
    if price is not None:
        counts["cost_usd"] = round(price.cost(tokens_in, tokens_out, batch=config.batch), 4)
        counts["most_cost_usd"] = round(price.cost(tokens_in, most_out, batch=config.batch), 4)
        details = {
            "dry_run": True,
            "text_counted_by": counted_by,
            "input_usd_per_million": price.input_per_million,
            "output_usd_per_million": price.output_per_million,
            "prices_of": price.source,
        }
    return StepSummary(step="generate-instructions", counts=counts, details=details)


def _hours(config: GenerateConfig, requests: int, tokens: int) -> float:
    if config.batch:
        return _BATCH_HOURS if requests else 0.0
    minutes = [requests * _SECONDS_PER_REPLY / 60 / config.concurrency]
    if config.requests_per_minute:
        minutes.append(requests / config.requests_per_minute)
    if config.tokens_per_minute:
        minutes.append(tokens / config.tokens_per_minute)
    return max(minutes) / 60

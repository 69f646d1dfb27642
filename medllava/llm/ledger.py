"""Every attempt and reply on disk, so that nothing that was paid for is asked for again.

A reply is synced to disk before its caller sees it. An attempt is noted before it is sent: one that
has no end in the file was in flight when a run was killed, and the most it may cost counts as spent
until its reply is there. An attempt that timed out or whose reply could not be read may have been
paid for: its price stays counted. Memory holds an index only; replies are read from the file when
they are needed.

Lines have an `event`:

    asked     an attempt is about to be sent, with the most it may cost
    failed    the attempt came to nothing and cost nothing
    maybe     the attempt came to nothing and may have cost what it could
    useless   a reply that was paid for and says nothing; the request may be asked again
    reply     the answer; settled
    refused   refused for good; settled
"""

import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from medllava.errors import RecordError
from medllava.llm.protocol import ESTIMATED, ChatReply
from medllava.store import JsonlWriter

ASKED, REPLY, REFUSED, FAILED = "asked", "reply", "refused", "failed"
MAYBE, USELESS = "maybe", "useless"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """What the ledger knows about a settled request."""

    reply: ChatReply | None
    """None: the service refused this request for good."""
    reason: str = ""
    cost_usd: float | None = 0.0
    """None: the price is not known."""
    time: str = ""
    """When the answer came, ISO, UTC."""
    seconds: float = 0.0
    """How long it took, retries included."""


class Ledger:
    """An append-only JSONL file of requests and replies; safe to share between threads."""

    def __init__(self, path: Path) -> None:
        """Read what earlier runs left at `path` and open it for more.

        Raises:
            RecordError: a line is damaged; a torn last line, as a kill leaves it, is cut off.
        """
        self.path = path
        self.input_tokens = 0
        self.output_tokens = 0
        self.spent_usd = 0.0
        """Cost of all replies whose price is known, of use or not."""
        self.times_asked = 0
        """Requests noted as sent, in all runs; a request whose run was killed may count twice."""
        self.attempts = 0
        """Attempts noted as sent, in all runs."""
        self.paid = 0
        """Replies that came, of use or not."""
        self.useless = 0
        """Of them, those that say nothing."""
        self.unpriced = 0
        """Replies whose price was not known."""
        self.estimated = 0
        """Replies whose tokens the server did not tell."""
        self._maybe_usd = self._open_usd = 0.0
        self._maybe = 0
        self._settled: dict[bytes, int] = {}
        self._open: dict[bytes, float] = {}
        self._writer = JsonlWriter(path)
        self._write_lock, self._sync_lock = threading.Lock(), threading.Lock()
        self._written = self._synced = 0
        self._reader = path.open("rb")
        self._load()

    def __len__(self) -> int:
        """Return how many requests are settled: answered, or refused for good."""
        return len(self._settled)

    @property
    def maybe_paid_usd(self) -> float:
        """The most that attempts without a readable reply may have cost, those in flight too."""
        return self._maybe_usd + self._open_usd

    @property
    def maybe_paid(self) -> int:
        """Attempts without a readable reply that may have been paid for, those in flight too."""
        return self._maybe + len(self._open)

    @property
    def committed_usd(self) -> float:
        """Cost of all replies, plus the most that attempts without reply may have cost."""
        return self.spent_usd + self.maybe_paid_usd

    @property
    def unsettled(self) -> int:
        """Requests that were sent and have no answer: in flight now, or when a run was killed."""
        return len(self._open)

    def find(self, key: str) -> LedgerEntry | None:
        """Return what is known of the request of a `request_key`; None if it has to be asked."""
        offset = self._settled.get(bytes.fromhex(key))
        if offset is None:
            return None
        with self._write_lock:
            self._reader.seek(offset)
            line = self._reader.readline()
        entry = json.loads(line)
        reply = entry.get("reply")
        return LedgerEntry(
            reply=ChatReply.from_json(reply, where=f"{self.path}, {key}") if reply else None,
            reason=entry.get("reason", ""),
            cost_usd=entry.get("cost_usd", 0.0),
            time=entry.get("time", ""),
            seconds=entry.get("seconds", 0.0),
        )

    def ask(
        self, key: str, request_id: str, *, most_usd: float = 0.0, is_repeat: bool = False
    ) -> None:
        """Note that an attempt is about to be sent, and the most it may cost.

        Args:
            key: of the request.
            request_id: for whoever reads the file.
            most_usd: 0 where the price is not known.
            is_repeat: it is not the first attempt at this request in this run.
        """
        facts: dict[str, Any] = {"request_id": request_id, "cost_usd": most_usd}
        if is_repeat:
            facts["is_repeat"] = True
        self._append(key, ASKED, facts)

    def settle(
        self,
        key: str,
        reply: ChatReply,
        *,
        cost_usd: float | None = 0.0,
        seconds: float = 0.0,
        sync: bool = True,
    ) -> LedgerEntry:
        """Put a reply on the disk; it is there when this returns, or when `sync` has."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        seconds = round(seconds, 3)
        facts = {"time": time, "cost_usd": cost_usd, "seconds": seconds}
        self._append(key, REPLY, facts | {"reply": reply.to_json()})
        if sync:
            self.sync()
        return LedgerEntry(reply=reply, cost_usd=cost_usd, time=time, seconds=seconds)

    def note_useless(
        self, key: str, reply: ChatReply, reason: str, *, cost_usd: float | None = 0.0
    ) -> None:
        """Put a reply on the disk that was paid for and says nothing; nothing is settled."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        facts = {"time": time, "cost_usd": cost_usd, "reason": reason}
        self._append(key, USELESS, facts | {"reply": reply.to_json()})
        self.sync()

    def refuse(self, key: str, reason: str) -> LedgerEntry:
        """Note that the service refused a request for good."""
        self._append(key, REFUSED, {"reason": reason})
        self.sync()
        return LedgerEntry(reply=None, reason=reason)

    def fail(self, key: str, reason: str, *, maybe_paid: bool = False) -> None:
        """Note that an attempt came to nothing; the request may be asked again.

        Args:
            key: of the request.
            reason: what went wrong.
            maybe_paid: the service may charge for it, so its price stays counted.
        """
        self._append(key, MAYBE if maybe_paid else FAILED, {"reason": reason})

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
        self._reader.close()

    def __enter__(self) -> Self:
        """Return the ledger."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def _append(self, key: str, event: str, facts: dict[str, Any]) -> None:
        entry = {"event": event, "key": key, **facts}
        with self._write_lock:
            offset = self._writer.write(entry)
            self._written += 1
            self._index(entry, offset)

    def sync(self) -> None:
        """Wait until the lines written so far are on disk; threads that wait share one sync."""
        mine = self._written
        with self._sync_lock:
            if self._synced < mine:
                upto = self._written
                self._writer.sync()
                self._synced = upto

    def _index(self, entry: dict[str, Any], offset: int) -> None:
        key, event = bytes.fromhex(entry["key"]), entry["event"]
        most = self._open.pop(key, None)
        self._open_usd = self._open_usd - most if self._open and most else self._open_usd
        if not self._open:
            self._open_usd = 0.0  # no remainder of rounding
        if most is not None and event in {ASKED, MAYBE}:
            # What an attempt that a kill cut short may have cost stays counted.
            self._maybe += 1
            self._maybe_usd += most
        if event == ASKED:
            self.attempts += 1
            self.times_asked += not entry.get("is_repeat")
            self._open[key] = entry["cost_usd"]
            self._open_usd += entry["cost_usd"]
        if event in {REPLY, REFUSED}:
            self._settled[key] = offset
        if event in {REPLY, USELESS}:
            self._index_reply(entry)

    def _index_reply(self, entry: dict[str, Any]) -> None:
        cost, reply = entry["cost_usd"], entry["reply"]
        self.paid += 1
        self.useless += entry["event"] == USELESS
        self.unpriced += cost is None
        self.estimated += reply.get("usage") == ESTIMATED
        self.spent_usd += cost or 0.0
        self.input_tokens += reply["input_tokens"]
        self.output_tokens += reply["output_tokens"]

    def _load(self) -> None:
        offset = 0
        for number, line in enumerate(self._reader, start=1):
            try:
                entry = json.loads(line)
                self._index(entry, offset)
            except (ValueError, KeyError, TypeError) as error:
                raise RecordError(
                    f"damaged ledger ({error!r}): {self.path}, line {number}. Remove that line."
                ) from None
            offset += len(line)

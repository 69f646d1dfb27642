"""Every request and reply on disk, so that nothing that was paid for is asked for again.

A reply is synced to disk before its caller sees it. A request is noted before it is sent: one that
has no reply in the file was in flight when a run was killed, and its price counts as spent until
the reply is there. Memory holds an index only; replies are read from the file when they are needed.
"""

import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from medllava.errors import RecordError
from medllava.llm.protocol import ChatReply
from medllava.store import JsonlWriter

ASKED, REPLY, REFUSED, FAILED = "asked", "reply", "refused", "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """What the ledger knows about a settled request."""

    reply: ChatReply | None
    """None: the service refused this request for good."""
    reason: str = ""
    cost_usd: float = 0.0
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
        """Cost of all replies."""
        self.times_asked = 0
        """Requests noted as sent, in all runs; a request whose run was killed may count twice."""
        self._open_usd = 0.0
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
    def committed_usd(self) -> float:
        """Cost of all replies, plus the most that requests without reply may have cost."""
        return self.spent_usd + self._open_usd

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

    def ask(self, key: str, request_id: str, *, most_usd: float = 0.0) -> None:
        """Note that a request is about to be sent, and the most it may cost."""
        self._append(key, ASKED, {"request_id": request_id, "cost_usd": most_usd})

    def settle(
        self,
        key: str,
        reply: ChatReply,
        *,
        cost_usd: float = 0.0,
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

    def refuse(self, key: str, reason: str) -> LedgerEntry:
        """Note that the service refused a request for good."""
        self._append(key, REFUSED, {"reason": reason})
        self.sync()
        return LedgerEntry(reply=None, reason=reason)

    def fail(self, key: str, reason: str) -> None:
        """Note that a request got no answer and counts as not paid; it may be asked again."""
        self._append(key, FAILED, {"reason": reason})

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
        if event == ASKED:
            self.times_asked += 1
            self._open[key] = entry["cost_usd"]
            self._open_usd += entry["cost_usd"]
            return
        # What an attempt that a kill cut short may have cost stays counted.
        self._open_usd = max(0.0, self._open_usd - self._open.pop(key, 0.0))
        if event in {REPLY, REFUSED}:
            self._settled[key] = offset
        if event == REPLY:
            self.spent_usd += entry["cost_usd"]
            self.input_tokens += entry["reply"]["input_tokens"]
            self.output_tokens += entry["reply"]["output_tokens"]

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

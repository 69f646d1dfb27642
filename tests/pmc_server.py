"""The bucket, the search and the converter on loopback, with faults on demand."""

import json
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from loopback import Handler, serving, take_fault

OUTAGES = ("301", "302", "401", "403", "407", "451", "html", "empty", "wrong-bytes", "portal-json")
"""What an hour of trouble between us and the bucket looks like: answers that are not its own."""
FAULTS = ("429", "503", "truncated", "wrong-bytes", "hang", "reset", "html")


class LoopbackArchive:
    """Serves `objects`; each key in `faults` goes wrong once per fault listed, then works."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = dict(objects)
        self.faults: dict[str, list[str]] = {}
        self.served: Counter[str] = Counter()
        self.searches: list[str] = []
        self.search_dates: dict[str, list[int]] = {}
        self.converter: dict[str, str] = {}
        self.outage = 0
        """Requests for objects that get an answer of `OUTAGES` instead, in turn."""
        self.outage_after: dict[int, int] = {}
        """By number of objects asked for: how long an outage begins there."""
        self.asked = 0
        self.misanswered: Counter[str] = Counter()
        self.latency = 0.0
        self.kill_after: int | None = None
        """Objects until the client `victim` is killed in the middle of one."""
        self.victim: subprocess.Popen[bytes] | None = None
        self.hang_seconds = 1.5
        self.lock = threading.Lock()
        self.url = ""

    def add_faults(self) -> None:
        """Let every fault happen to some object, and a few objects suffer twice."""
        for position, key in enumerate(sorted(self.objects)):
            self.faults[key] = [FAULTS[position % len(FAULTS)]]
            if position % 5 == 0:
                self.faults[key].append("503")

    @contextmanager
    def running(self) -> Iterator["LoopbackArchive"]:
        with serving(_Handler, archive=self) as self.url:
            yield self

    def list_prefixes(self, prefix: str) -> str:
        found = sorted(
            {
                key[: key.index("/", len(prefix)) + 1]
                for key in self.objects
                if key.startswith(prefix) and "/" in key[len(prefix) :]
            }
        )
        common = "".join(f"<CommonPrefixes><Prefix>{p}</Prefix></CommonPrefixes>" for p in found)
        return (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<KeyCount>{len(found)}</KeyCount>{common}</ListBucketResult>"
        )

    def search(self, term: str) -> dict[str, Any]:
        """ESearch: every article whose day lies in the term's date range."""
        self.searches.append(term)
        first, _, last = term.rpartition("AND ")[2].removesuffix("[pmcrdat]").partition(":")
        numbers = [n for day, ns in self.search_dates.items() if first <= day <= last for n in ns]
        return {"esearchresult": {"count": str(len(numbers)), "idlist": list(map(str, numbers))}}

    def convert(self, ids: list[str]) -> dict[str, Any]:
        return {
            "records": [
                {"requested-id": i, "pmcid": self.converter[i]}
                if i in self.converter
                else {"requested-id": i, "status": "error"}
                for i in ids
            ]
        }


class _Handler(Handler):
    archive: LoopbackArchive

    def head(self) -> None:
        body = self.archive.objects.get(unquote(urlsplit(self.path).path)[1:])
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()

    def get(self) -> None:
        parts = urlsplit(self.path)
        key, query = unquote(parts.path)[1:], parse_qs(parts.query)
        if "list-type" in query:
            self.reply(200, self.archive.list_prefixes(query["prefix"][0]).encode())
        elif key == "esearch.fcgi":
            self.reply(200, json.dumps(self.archive.search(query["term"][0])).encode())
        elif key == "idconv/":
            ids = query["ids"][0].split(",")
            self.reply(200, json.dumps(self.archive.convert(ids)).encode())
        elif key in self.archive.objects:
            self.reply_object(key, self.archive.objects[key])
        else:
            self.reply(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def reply_object(self, key: str, body: bytes) -> None:
        if self.archive.latency:
            time.sleep(self.archive.latency)
        with self.archive.lock:
            fault = take_fault(self.archive.faults, key)
            self.archive.asked += 1
            self.archive.outage += self.archive.outage_after.pop(self.archive.asked, 0)
            if self.archive.outage > 0:
                self.archive.outage -= 1
                fault = OUTAGES[sum(self.archive.misanswered.values()) % len(OUTAGES)]
                self.archive.misanswered[fault] += 1
            if self.archive.kill_after is not None:
                self.archive.kill_after -= 1
                fault = "kill" if self.archive.kill_after == 0 else fault
            if fault is None:
                self.archive.served[key] += 1
        if fault is not None and fault.isdigit():
            to = {"Location": "http://127.0.0.1:9/login"} if fault.startswith("3") else {}
            self.reply(int(fault), b"slow down", to)
        elif fault == "empty":
            self.reply(200, b"")
        elif fault == "portal-json":
            self.reply(200, b'{"error": "login required"}')
        elif fault == "truncated":
            self.reply(200, body, cut_at=len(body) // 2)
        elif fault == "kill":
            self.reply(200, body, cut_at=random.randrange(len(body)))
            if self.archive.victim is not None:
                self.archive.victim.kill()
        elif fault == "wrong-bytes":
            self.reply(200, body[:-1] + bytes([body[-1] ^ 1]) if len(body) > 1 else b"x")
        elif fault == "html":
            self.reply(200, b"<html>[Error] : try later</html>")
        elif fault == "hang":
            time.sleep(self.archive.hang_seconds)
            self.close_connection = True
        elif fault == "reset":
            self.close_connection = True
            self.connection.close()
        else:
            self.reply(200, body)

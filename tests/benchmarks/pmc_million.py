"""One shard out of a bucket of a million articles: time, memory and the size of the listing.

    python tests/benchmarks/pmc_million.py --articles 1000000 --num-shards 4000

A loopback server in a process of its own makes every article when it is asked for. The first shard
freezes the whole listing and then does its own share; the second finds the listing there.
"""

import argparse
import functools
import gzip
import hashlib
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pmc_bucket import BucketArticle, article_objects
from pmc_server import LoopbackArchive

_PREFIX = "inventory-reports/pmc-oa-opendata/metadata"
_PARTS = 4


class LazyBucket(dict[str, bytes]):
    """The inventory's objects; those of articles are made when asked for."""

    def __contains__(self, key: object) -> bool:
        return self.get(str(key)) is not None

    def __getitem__(self, key: str) -> bytes:
        body = self.get(key)
        if body is None:
            raise KeyError(key)
        return body

    def get(self, key: str, default: bytes | None = None) -> bytes | None:  # type: ignore[override]
        if dict.__contains__(self, key):
            return super().__getitem__(key)
        stem = key.removeprefix("metadata/").partition("/")[0].removesuffix(".json")
        number = stem.removeprefix("PMC").partition(".")[0]
        return _article(int(number)).get(key, default) if number.isdigit() else default


@functools.lru_cache(maxsize=256)
def _article(number: int) -> dict[str, bytes]:
    return article_objects(BucketArticle(number, num_figures=4))


def make_inventory(count: int) -> dict[str, bytes]:
    """Return manifest and parts, without the ETags' meaning: nobody refreshes here."""
    parts = {}
    for part in range(_PARTS):
        rows = (
            f'"pmc-oa-opendata","metadata/PMC{n}.1.json","2026-09-01T00:00:00.000Z",'
            f'"{hashlib.md5(str(n).encode()).hexdigest()}"\n'
            for n in range(1 + part, count + 1, _PARTS)
        )
        body = gzip.compress("".join(rows).encode(), 1)
        parts[f"{_PREFIX}/data/part-{part}.csv.gz"] = body
    files = [{"key": k, "MD5checksum": hashlib.md5(v).hexdigest()} for k, v in parts.items()]
    manifest = {"fileSchema": "Bucket, Key, LastModifiedDate, ETag", "files": files}
    return parts | {f"{_PREFIX}/2026-09-01T01-00Z/manifest.json": json.dumps(manifest).encode()}


def serve(count: int, address: Connection) -> None:
    archive = LoopbackArchive({})
    archive.objects = LazyBucket(make_inventory(count))
    with archive.running():
        address.send(archive.url)
        address.recv()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--articles", type=int, default=1_000_000)
    parser.add_argument("--num-shards", type=int, default=4000)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(options.articles, theirs), daemon=True)
    server.start()
    url = ours.recv()
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'shard':>6} {'seconds':>8} {'images':>8} {'peak MiB':>9} {'listing MiB':>12}")
        for shard in (0, 1):
            started = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-m", "medllava", "fetch-pmc", "-o", folder, "--base-url", url,
                 "--num-shards", str(options.num_shards), "--shard-index", str(shard), "--json"],
                capture_output=True,
                check=False,
            )  # fmt: skip
            if done.returncode:
                raise SystemExit(done.stdout.decode() + done.stderr.decode()[-2000:])
            seconds = time.monotonic() - started
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            listing = max(p.stat().st_size for p in Path(folder).rglob("*.sqlite*")) / (1 << 20)
            images = sum(path.is_file() for path in Path(folder, "images").rglob("*"))
            print(f"{shard:>6} {seconds:>8.1f} {images:>8} {peak:>9.0f}"
                  f" {listing:>12.1f}", flush=True)  # fmt: skip
    ours.send("done")
    server.join()


if __name__ == "__main__":
    main()

"""Transfer from a loopback bucket with latency, beside `curl --parallel` on the same objects.

    python tests/benchmarks/pmc_transfer.py --objects 1200 --workers 16

The server is a process of its own and answers each object after 20 ms. curl writes its files; ours
checks each object's md5 and writes it. Both run with the same number of connections, in turns.
"""

import argparse
import hashlib
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from loopback import Handler, serve

from medllava.pmc.archive import md5_check
from medllava.pmc.transport import HttpStore, Transport


def make_object(number: int, size: int) -> bytes:
    return hashlib.shake_128(str(number).encode()).digest(size)


def serve_objects(bodies: list[bytes], latency: float, port: Connection) -> None:
    class Objects(Handler):
        def get(self) -> None:
            body = bodies[int(self.path.rpartition("/")[2])]
            time.sleep(latency)
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
            self.wfile.write(head.encode() + body)
            self.wfile.flush()

    serve(Objects, told=port.send, seconds=3600)


def fetch_with_curl(url: str, count: int, workers: int, folder: Path) -> float:
    names = "".join(f'url = "{url}/PMC1.1/{n}"\noutput = "{folder}/{n}"\n' for n in range(count))
    config = folder / "curl.txt"
    config.write_text(names)
    started = time.monotonic()
    subprocess.run(
        [
            "curl",
            "-sS",
            "--no-progress-meter",
            "--parallel",
            "--parallel-max",
            str(workers),
            "--config",
            str(config),
        ],
        check=True,
    )
    return time.monotonic() - started


def fetch_with_ours(url: str, md5s: list[str], workers: int, folder: Path) -> float:
    store = HttpStore(Transport(url), keep_dir=folder)
    started = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        list(
            pool.map(
                lambda n: store.read(f"PMC1.1/{n}", check=md5_check(md5s[n])), range(len(md5s))
            )
        )
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=1200)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--bytes", type=int, default=110_000)
    parser.add_argument("--latency", type=float, default=0.02)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if shutil.which("curl") is None:
        raise SystemExit("curl is not installed")
    bodies = [make_object(n, options.bytes) for n in range(options.objects)]
    md5s = [hashlib.md5(body).hexdigest() for body in bodies]
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(
        target=serve_objects, args=(bodies, options.latency, theirs), daemon=True
    )
    server.start()
    url = ours.recv()
    best = {"curl --parallel": 0.0, "medllava": 0.0}
    for _ in range(options.repeats):
        for name in best:
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                seconds = (
                    fetch_with_ours(url, md5s, options.workers, folder)
                    if name == "medllava"
                    else fetch_with_curl(url, options.objects, options.workers, folder)
                )
            best[name] = max(best[name], options.objects / seconds)
    server.terminate()
    for name, rate in best.items():
        print(f"{name:16s} {rate:7.0f} objects/s  {rate * options.bytes / 1e6:6.0f} MB/s")
    print(f"ours is {best['medllava'] / best['curl --parallel']:.2f} of curl")
    print(f"latency alone allows {options.workers / options.latency:.0f} objects/s")


if __name__ == "__main__":
    main()

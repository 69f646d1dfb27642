"""Bad manners x kill -9: what the server charged for is what the ledger has as paid or maybe paid.

    python tests/benchmarks/instruct_kills.py [--kills 2] [--figures 24] [--manners NAME ...]

For each manner a server process answers, the step runs in a process of its own, is killed at random
moments, and runs again until it ends or has been killed as often as asked. Prints a table; exits
with 1 if a payment is missing from a ledger or a budget was passed by more than the requests in
flight.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from llm_manners import MANNERS, served
from test_llm_manners import ledger_facts, settings, start

CONCURRENCY = 4
BUDGET_USD = 0.40
DEAREST_USD = 0.17
"""Most that one request of the bench can be charged: the longest reply with four times the room."""


def run_manner(
    manner: str, folder: Path, *, kills: int, figures: int
) -> tuple[int, int, int, float]:
    """Return what the server was paid, and the ledger's paid, maybe paid and dollars."""
    folder.mkdir()
    with served(manner, folder / "server", seconds=120) as server:
        config = settings(
            folder,
            server.url,
            figures=figures,
            timeout_seconds=0.6,
            concurrency=CONCURRENCY,
            max_cost_usd=BUDGET_USD,
            request={"retries": 1},
        )
        for number in range(kills + 1):
            before = server.state["requests"]
            process = start(config)
            if number < kills:
                deadline = time.monotonic() + 20
                while server.state["requests"] == before and process.poll() is None:
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.005)
                time.sleep(random.uniform(0.0, 0.4))
                process.kill()
            try:
                process.wait(timeout=25)
            except Exception:  # noqa: BLE001 - a run that waits is as good as a killed one
                process.kill()
                process.wait()
        time.sleep(0.2)
        paid_by_server = server.state["paid"]
    ledger = folder / "out/ledger.jsonl"
    if not ledger.exists():
        return paid_by_server, 0, 0, 0.0
    paid, maybe, dollars = ledger_facts(folder / "out")
    return paid_by_server, paid, maybe, dollars


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--figures", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--manners", nargs="*", default=sorted(MANNERS))
    args = parser.parse_args()
    random.seed(args.seed)
    print(f"{'manner':16} {'server paid':>11} {'paid':>5} {'maybe':>6} {'USD':>7}  kept")
    wrong = 0
    for manner in args.manners:
        with tempfile.TemporaryDirectory() as name:
            server, paid, maybe, dollars = run_manner(
                manner, Path(name) / "run", kills=args.kills, figures=args.figures
            )
        is_counted = paid <= server <= paid + maybe
        is_within = dollars <= BUDGET_USD + CONCURRENCY * DEAREST_USD
        wrong += not (is_counted and is_within)
        kept = "yes" if is_counted and is_within else "NO"
        print(f"{manner:16} {server:11} {paid:5} {maybe:6} {dollars:7.3f}  {kept}", flush=True)
    print(f"{len(args.manners)} manners, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

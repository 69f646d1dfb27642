"""Run the harness of faults and print its tables.

python -m tests.chaos fuzz --cases 10000        # damaged inputs for every reader
python -m tests.chaos kills --kills 200         # every step killed at random moments
python -m tests.chaos mutations                 # one line of the code wrong: who notices?
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos.fuzz import run_fuzz
from tests.chaos.mutations import print_mutations


def main() -> int:
    """Print one table; exit 1 where a fault got through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("fuzz", "kills", "mutations"))
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for inputs that broke a reader")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.kind == "fuzz":
            rows = run_fuzz(Path(folder), cases=options.cases, seed=options.seed, keep=options.keep)
            print(f"{'reader':<18} {'cases':>6} {'read':>6} {'refused':>8} {'slowest':>8}  broken")
            for row in rows:
                broken = "; ".join(row.broken) or "none"
                print(
                    f"{row.reader:<18} {row.cases:>6} {row.read:>6} {row.refused:>8}"
                    f" {row.slowest:>7.2f}s  {broken}"
                )
            return int(any(row.broken for row in rows))
        if options.kind == "mutations":
            return print_mutations(Path(folder))
        from tests.chaos.kills import print_kills

        return print_kills(Path(folder), kills=options.kills, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())

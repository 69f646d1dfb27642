"""Run the harness of faults and print its tables.

python -m tests.chaos fuzz --cases 10000        # damaged inputs for every reader
python -m tests.chaos kills --cases 200         # every step killed at random moments
python -m tests.chaos disk --cases 60           # every step on a disk that fills (Linux, as root)
python -m tests.chaos http --cases 20           # an archive that misbehaves
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos.disk import print_disks
from tests.chaos.fuzz import run_fuzz
from tests.chaos.http import print_faults
from tests.chaos.kills import print_kills


def main() -> int:
    """Print one table; exit 1 where a fault got through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("fuzz", "kills", "disk", "http"))
    parser.add_argument("--cases", type=int, required=True)
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
        tables = {"kills": print_kills, "disk": print_disks, "http": print_faults}
        return tables[options.kind](Path(folder), cases=options.cases, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())

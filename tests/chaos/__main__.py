"""Run the harness of faults and print its tables.

python -m tests.chaos fuzz --cases 10000        # damaged inputs for every reader
python -m tests.chaos kills --cases 200         # every step killed at random moments
python -m tests.chaos disk --cases 60           # every step on a disk that fills (Linux, as root)
python -m tests.chaos http --cases 20           # an archive that misbehaves
python -m tests.chaos mutations                 # one line of the code wrong: who notices?
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos.disk import print_disks
from tests.chaos.fuzz import print_fuzz
from tests.chaos.http import print_faults
from tests.chaos.kills import print_kills
from tests.chaos.mutations import print_mutations

TABLES = {"fuzz": print_fuzz, "http": print_faults}
BY_STEP = {"kills": print_kills, "disk": print_disks}


def main() -> int:
    """Print one table; exit 1 where a fault got through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=(*TABLES, *BY_STEP, "mutations"))
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=(), help="kills, disk: of these steps")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.kind == "mutations":
            return print_mutations(Path(folder))
        if options.kind in BY_STEP:
            run = BY_STEP[options.kind]
            return run(Path(folder), cases=options.cases, seed=options.seed, only=options.only)
        return TABLES[options.kind](Path(folder), cases=options.cases, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())

"""Give every command hundreds of drawn command lines: each ends with a code and one object.

    python tests/benchmarks/cli_fuzz.py [--count 200] [--seed 1] [--command NAME]

Nothing is reached but this machine. Prints how many ended well, and each that did not with the
command line that shows it.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from cli_fuzz import COMMANDS, fuzz, prepare


def main() -> int:
    """Run the command lines of all commands, or of one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--command", choices=COMMANDS)
    options = parser.parse_args()
    num_wrong = 0
    for command in [options.command] if options.command else COMMANDS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepare(folder)
            os.chdir(folder)
            started = time.perf_counter()
            found = fuzz(command, folder, seed=options.seed, count=options.count)
            seconds = time.perf_counter() - started
        num_wrong += len(found)
        good = options.count - len(found)
        print(f"{command:<24}{good:5} of {options.count} ended as they should, {seconds:.0f} s")
        for text in found:
            print(text)
    return int(num_wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

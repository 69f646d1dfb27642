"""Faults on purpose: damaged inputs, kills, full disks. See `python -m tests.chaos --help`."""

import sys
from pathlib import Path

# Servers and archives of the tests import one another as pytest finds them.
sys.path.insert(0, str(Path(__file__).parents[1]))

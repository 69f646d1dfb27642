"""Faults on purpose: damaged inputs, kills, full disks. See `python -m tests.chaos --help`."""

"""Benchmarks: shipped tasks and the user's own, read to questions."""

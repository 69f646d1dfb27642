"""Judging: another model grades free text."""

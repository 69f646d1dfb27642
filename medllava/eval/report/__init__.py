"""Reporting: scores to `report.json` and its page."""

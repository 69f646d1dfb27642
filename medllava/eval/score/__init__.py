"""Scoring: a question and a reply to numbers, numbers to intervals."""

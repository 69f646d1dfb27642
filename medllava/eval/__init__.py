"""A checkpoint and a task become predictions, metrics and a report."""

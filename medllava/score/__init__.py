"""A reply and its reference to a score: what evaluation reports and reinforcement rewards."""

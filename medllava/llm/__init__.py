"""One door to every outside language model: teacher, judge and remote chat go through it."""

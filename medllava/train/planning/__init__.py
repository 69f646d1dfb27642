"""What a run will do, before it starts: counts, arithmetic, memory, the plan."""
